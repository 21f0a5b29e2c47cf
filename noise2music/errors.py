"""The error a user can mend: one sentence that says what is wrong and what to do about it."""

import argparse
import re
from typing import NoReturn

# A Path makes one slash of two.
_CREDENTIALS = re.compile(r"(:/{1,2})[^\s/@'\"]+@")


def without_credentials(text: str) -> str:
  """The text without what stands between :// and @ in URLs: logs and configs are passed on."""
  return _CREDENTIALS.sub(r"\1***@", text)


class UserError(ValueError):
  """Shown as one line, without a traceback, with exit status 2 at the command line."""

  def __str__(self) -> str:
    return without_credentials(super().__str__())


class Parser(argparse.ArgumentParser):
  """Raises UserError where argparse would print its usage and leave."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}: see {self.prog} --help")
