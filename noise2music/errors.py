"""The error a user can mend: one sentence that says what is wrong and what to do about it."""

import argparse
from typing import NoReturn


class UserError(ValueError):
  """Shown as one line, without a traceback, with exit status 2 at the command line."""


class Parser(argparse.ArgumentParser):
  """Raises UserError where argparse would print its usage and leave."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}: see {self.prog} --help")
