"""A limit on what a language model may cost, kept by many threads at once."""

import dataclasses
import threading

from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
  """requests: sent, whatever became of them. Tokens: as the server counts them."""

  requests: int = 0
  prompt_tokens: int = 0
  reply_tokens: int = 0

  def __add__(self, other: "Spent") -> "Spent":
    names = (field.name for field in dataclasses.fields(self))
    return Spent(**{name: getattr(self, name) + getattr(other, name) for name in names})

  @property
  def tokens(self) -> int:
    return self.prompt_tokens + self.reply_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """None is no limit. Prices: for a million tokens, in the currency of `cost`.

  Raises UserError for a limit on the cost without prices.
  """

  requests: int | None = None
  tokens: int | None = None
  cost: float | None = None
  prompt_price: float | None = None
  reply_price: float | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value is not None and not 0 <= value < float("inf"):
        raise UserError(f"{field.name} must be a number of 0 or more, not {value}")
    if self.cost is not None and None in (self.prompt_price, self.reply_price):
      raise UserError(
        "a limit on the cost needs the prices of a million tokens: give --prompt-price and "
        "--reply-price"
      )

  def cost_of(self, spent: Spent) -> float | None:
    """None where the prices are not known."""
    if self.prompt_price is None or self.reply_price is None:
      return None
    return (spent.prompt_tokens * self.prompt_price + spent.reply_tokens * self.reply_price) / 1e6

  def allow(self, spent: Spent) -> bool:
    """Whether `spent` in all stays within every limit."""
    return (
      (self.requests is None or spent.requests <= self.requests)
      and (self.tokens is None or spent.tokens <= self.tokens)
      and (self.cost is None or self.cost_of(spent) <= self.cost)
    )


class Budget:
  """Room is reserved for the most that a request may use, before it is sent.

  So the limits hold with any number of threads, as long as the server keeps to the length of
  replies it was asked for. spent: by earlier runs.
  """

  def __init__(self, limits: Limits, *, spent: Spent = Spent()):
    self._limits, self._spent = limits, spent
    self._reserved: list[Spent] = []
    self._exhausted = False
    self._changed = threading.Condition()

  @property
  def spent(self) -> Spent:
    with self._changed:
      return self._spent

  def reserve(self, most: Spent) -> bool:
    """Whether there is room; waits where replies under way may leave some. Once no, always no."""
    with self._changed:
      while not self._exhausted:
        if self._limits.allow(sum(self._reserved, self._spent) + most):
          self._reserved.append(most)
          return True
        if not self._reserved:
          self._exhausted = True
          break
        self._changed.wait()
      self._changed.notify_all()
      return False

  def settle(self, reserved: Spent, used: Spent) -> None:
    """Puts what was used in the place of what was reserved for it."""
    with self._changed:
      self._reserved.remove(reserved)
      self._spent += used
      self._changed.notify_all()
