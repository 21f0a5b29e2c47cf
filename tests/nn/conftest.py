"""All networks of this folder are compiled lightly."""

import pytest


@pytest.fixture(autouse=True)
def _light(light_compilation: None) -> None:
  del light_compilation
