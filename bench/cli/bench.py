"""qo-bench: a group of benchmarks, each imported when it is called."""

import importlib
from typing import ClassVar

import click

from queryopt import __version__
from queryopt.cli import Group

__all__ = ["main"]


class _LazyGroup(Group):
    commands_in: ClassVar[dict[str, str]] = {
        "flops": "queryopt.bench.cli.flops",
    }
    """A sub-command's name -> the module whose `command` it is."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(self.commands_in)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.commands_in:
            return None
        command: click.Command = importlib.import_module(self.commands_in[name]).command
        return command


@click.group("qo-bench", cls=_LazyGroup)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Measure what a network costs and how fast it runs.

    \b
    Example:
      qo-bench flops --bits 12
    """
