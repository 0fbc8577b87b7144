"""What a method says of configurations, which are checked against it: no network, and no torch.

Methods stand above configurations and import them; configurations find the rules of theirs here, by its name alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar

from queryopt.errors import UsageError
from queryopt.text import did_you_mean

__all__ = ["DEFAULT_METHOD", "MethodRules", "Settings", "find_rules", "method_names"]

DEFAULT_METHOD = "queryopt"
_PACKAGE = "queryopt.train.methods"


@dataclass(frozen=True)
class Settings:
    """A method's own hyper-parameters: numbers with the published values as defaults. `--method-option name=value`.

    A subclass adds fields, and raises UsageError in __post_init__ for values that make no sense.
    """

    @classmethod
    def read(cls, method: str, values: Mapping[str, Any]) -> "Settings":
        """The settings of `method` with these values. UsageError for unknown names and for what is no finite number."""
        known = [f.name for f in fields(cls)]
        for name, value in values.items():
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise UsageError(f"{method} has no option {name}: {has}{did_you_mean(name, known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"{method}'s option {name} is {value!r}: a number")
        return cls(**values)


class MethodRules:
    """The part of a `Method` (queryopt.train.methods.base) that configurations are checked against."""

    name: ClassVar[str]
    has_queries: ClassVar[bool] = False
    """Whether its networks are QueryOpt's, with queries, fusion and branches."""
    closed_form: ClassVar[bool] = False
    """Whether its network is fitted before the first iteration, and there are none."""
    unused: ClassVar[frozenset[str]] = frozenset()
    """Fields of TrainConfig and NetworkConfig that mean nothing to it."""
    settings_type: ClassVar[type[Settings]] = Settings

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> Settings:
        """The settings that these options mean. UsageError where they mean none."""
        return cls.settings_type.read(cls.name, options)

    @classmethod
    def check_switch(cls, name: str, value: bool | None) -> bool:
        """What a network's `fusion` or `queries` is; None is what the method has. UsageError for what it can't have."""
        if value is None:
            return cls.has_queries
        if value is True and not cls.has_queries:
            raise UsageError(f"{name} is true, but networks of the method {cls.name} have no {name}")
        return value


@cache
def method_names() -> tuple[str, ...]:
    """The names of all methods, queryopt first. Imports none of them (nor torch)."""
    modules = iter_modules(import_module(_PACKAGE).__path__)
    names = {m.name for m in modules if not m.name.startswith("_")} - {"base", DEFAULT_METHOD}
    return (DEFAULT_METHOD, *sorted(names))


def find_rules(name: str) -> type[MethodRules]:
    """The rules of the method of this name. UsageError with a suggestion for any other name."""
    if name not in method_names():
        raise UsageError(
            f"method is {name!r}: one of {', '.join(method_names())}{did_you_mean(str(name), method_names())}"
        )
    rules: type[MethodRules] = import_module(f"{_PACKAGE}.{name}").METHOD
    return rules
