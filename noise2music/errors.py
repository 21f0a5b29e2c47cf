"""The error a user can mend: one sentence that says what is wrong and what to do about it."""


class UserError(ValueError):
  """Shown as one line, without a traceback, with exit status 2 at the command line."""
