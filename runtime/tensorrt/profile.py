"""The batches that an engine is built for."""

from dataclasses import dataclass
from typing import Any

from queryopt.errors import UsageError

__all__ = ["DEFAULT_PROFILE", "Profile"]

_LARGEST = 1 << 16


@dataclass(frozen=True)
class Profile:
    """Batch sizes of an engine: it takes `smallest` to `largest` images in a run, and is fastest at `best`.

    Raises UsageError where they are not 1 <= smallest <= best <= largest <= 65,536.
    """

    smallest: int
    best: int
    largest: int

    def __post_init__(self) -> None:
        values = (self.smallest, self.best, self.largest)
        if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
            raise UsageError(f"a profile is three whole numbers, e.g. 1,32,256, not {values}")
        if not 1 <= self.smallest <= self.best <= self.largest <= _LARGEST:
            raise UsageError(
                f"profile {self}: the smallest, best and largest batch must ascend, from 1 to at most {_LARGEST:,}"
            )

    def __str__(self) -> str:
        """As it is written on the command line: 1,32,256."""
        return f"{self.smallest},{self.best},{self.largest}"

    @classmethod
    def of(cls, value: Any) -> "Profile":
        """A profile from itself, three numbers, or text such as "1,32,256" (one number: a batch of that size only)."""
        if isinstance(value, Profile):
            return value
        try:
            parts = [int(part) for part in value.split(",")] if isinstance(value, str) else list(value)
            smallest, best, largest = parts * 3 if len(parts) == 1 else parts
        except (TypeError, ValueError):
            raise UsageError(f"profile {value!r}: give the smallest, best and largest batch, e.g. 1,32,256") from None
        return cls(smallest, best, largest)


DEFAULT_PROFILE = Profile(1, 32, 256)
