"""Methods: ways to learn codes. Every module here whose name has no underscore in front is one, found by its name.

To add a method, write such a module with a subclass of `Method` (base.py), named METHOD there, and its test. The loop,
the data, the checkpoints, the export, the runtime and the evaluation are the same for all.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from queryopt.errors import UsageError
from queryopt.text import did_you_mean

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork
    from queryopt.train.methods.base import Method
    from queryopt.train.network import NetworkConfig

__all__ = ["DEFAULT_METHOD", "build_network", "find_method", "method_names"]

DEFAULT_METHOD = "queryopt"


@cache
def method_names() -> tuple[str, ...]:
    """The names of all methods, queryopt first. Imports none of them (nor torch)."""
    names = {m.name for m in iter_modules(__path__) if not m.name.startswith("_")} - {"base", DEFAULT_METHOD}
    return (DEFAULT_METHOD, *sorted(names))


def find_method(name: str) -> "type[Method]":
    """The method of this name. UsageError with a suggestion for any other name."""
    if name not in method_names():
        raise UsageError(
            f"method is {name!r}: one of {', '.join(method_names())}{did_you_mean(str(name), method_names())}"
        )
    method: type[Method] = import_module(f"{__name__}.{name}").METHOD
    return method


def build_network(config: "NetworkConfig") -> "HashNetwork":
    """The network of a configuration, with random weights."""
    return find_method(config.method).network(config)
