"""qo-bench, the group."""

import pytest
from click.testing import CliRunner

from queryopt import __version__
from queryopt.bench.cli.bench import main


def test_help_lists_the_benchmarks() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "flops" in result.stdout
    assert "Example" in result.stdout


def test_help_says_all_of_what_each_is_for() -> None:
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    lines = result.stdout.partition("Commands:\n")[2].splitlines()
    assert {"flops", "gpu", "search", "throughput"} <= {line.split()[0] for line in lines}
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_a_wrong_name_gets_a_suggestion() -> None:
    result = CliRunner().invoke(main, ["flop"])
    assert result.exit_code == 2
    assert "flops" in result.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["flops", "--version"]])
def test_version(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert __version__ in result.stdout
