"""Methods: ways to learn codes. Every module here whose name has no underscore in front is one, found by its name.

To add a method, write such a module with a subclass of `Method` (base.py), named METHOD there, and its test. The loop,
the data, the checkpoints, the export, the runtime and the evaluation are the same for all.
"""

from typing import TYPE_CHECKING, cast

from queryopt.train.method_rules import DEFAULT_METHOD, find_rules, method_names

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork
    from queryopt.train.methods.base import Method
    from queryopt.train.network_config import NetworkConfig

__all__ = ["DEFAULT_METHOD", "build_network", "find_method", "method_names"]


def find_method(name: str) -> "type[Method]":
    """The method of this name. UsageError with a suggestion for any other name."""
    return cast("type[Method]", find_rules(name))


def build_network(config: "NetworkConfig") -> "HashNetwork":
    """The network of a configuration, with random weights."""
    return find_method(config.method).network(config)
