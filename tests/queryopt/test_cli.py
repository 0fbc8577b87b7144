import json
import logging
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.table import Table
from rich.text import Text

from queryopt.cli import Command, Group, Output, batch_option, common_options, option_group, threads_option
from queryopt.errors import ExitCode, InputError, MismatchError, MissingError, ParityError, QueryOptError, TrainingError
from queryopt.text import display_path, from_here

PROGRAM = """
import os, signal, sys
import click
from queryopt.cli import Command, Output, common_options

@click.command(cls=Command, name="qo-try")
@click.argument("what")
@common_options
def main(what: str, out: Output) -> None:
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    with out.progress("hashing", 3) as advance:
        for i in range(3):
            advance(1, f"picture {i}")
    for _ in range(100_000 if what == "flood" else 1):
        out.print("/a/long/path" * 40)
    out.result({"what": what})

main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)


def raising(error: BaseException) -> Command:
    @click.command(cls=Command, name="qo-try")
    @common_options
    def command(out: Output) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 3),
        (MismatchError("x"), 2),
        (MissingError("x"), 4),
        (ParityError("x"), 5),
        (TrainingError("x"), 3),
        (click.UsageError("x"), 2),
        (KeyboardInterrupt(), 130),
        (MemoryError("x"), 3),
        (RuntimeError("x"), 70),
    ],
)
def test_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert CliRunner().invoke(raising(error)).exit_code == code


def test_a_users_error_is_one_line_and_no_traceback() -> None:
    result = CliRunner().invoke(raising(InputError("no pictures in photos/: give a folder of pictures")))
    assert result.output == "qo-try: error: no pictures in photos/: give a folder of pictures\n"


def test_a_line_break_in_a_message_is_shown_as_an_escape() -> None:
    assert CliRunner().invoke(raising(InputError("a\nb.db: none"))).output == "qo-try: error: a\\nb.db: none\n"
    assert CliRunner().invoke(raising(OSError(2, "none", "a\nb"))).output == "qo-try: error: a\\nb: none\n"

    @click.command(cls=Command)
    @common_options
    def command(out: Output) -> None:
        out.log("log a\nb")
        out.warn("warn a\nb")
        logging.getLogger("queryopt").warning("%s", "library a\nb")

    assert CliRunner().invoke(command).stderr == "log a\\nb\nwarning: warn a\\nb\nwarning: library a\\nb\n"


def test_names_are_printed_as_they_are_and_lines_end_where_their_text_does() -> None:
    @click.command(cls=Command)
    @common_options
    def command(out: Output) -> None:
        table = Table("name", box=None)
        for name in (":bird:.jpg", "[bold]x[/bold]", "x" * 300):
            table.add_row(Text(name))
        out.print(":bird:.jpg", table)

    assert CliRunner().invoke(command).stdout.split("\n") == [
        ":bird:.jpg",
        *(f" {text}" for text in ("name", ":bird:.jpg", "[bold]x[/bold]", "x" * 300)),
        "",
    ]


def test_a_system_error_names_the_file() -> None:
    result = CliRunner().invoke(raising(PermissionError(13, "Permission denied", "a/b.db")))
    assert result.exit_code == ExitCode.INPUT
    assert result.output == "qo-try: error: a/b.db: Permission denied\n"


def test_a_bug_prints_its_traceback_and_where_to_report_it() -> None:
    result = CliRunner().invoke(raising(RuntimeError("boom")))
    assert "RuntimeError: boom" in result.output
    assert "report" in result.output


def test_exit_codes_are_those_of_the_error_tree() -> None:
    def tree(kind: type[QueryOptError]) -> set[type[QueryOptError]]:
        return {kind}.union(*(tree(k) for k in kind.__subclasses__()))

    assert {k.exit_code for k in tree(QueryOptError)} == {
        ExitCode.USAGE,
        ExitCode.INPUT,
        ExitCode.MISSING,
        ExitCode.PARITY,
    }


def test_wrong_names_get_a_suggestion() -> None:
    group = Group("qo-try", commands=[raising(InputError("x"))])
    result = CliRunner().invoke(group, ["qo-tyr"])
    assert result.exit_code == ExitCode.USAGE
    assert "Did you mean 'qo-try'?" in result.output
    assert "Did you mean '--json'?" in CliRunner().invoke(raising(InputError("x")), ["--jsno"]).output


def test_a_failure_in_some_items_is_exit_1() -> None:
    @click.command(cls=Command)
    @common_options
    def command(out: Output) -> ExitCode:
        return ExitCode.SOME_FAILED

    assert CliRunner().invoke(command).exit_code == 1


def test_json_is_alone_on_stdout_and_piped_lines_are_whole() -> None:
    done = run("x", "--json")
    assert json.loads(done.stdout) == {"what": "x"}
    assert done.stderr == ""
    done = run("x")
    assert done.stdout == "/a/long/path" * 40 + "\n"
    assert done.stderr == "", "no progress bar where stderr is not a terminal"


def test_json_takes_what_results_hold() -> None:
    @click.command(cls=Command)
    @common_options
    def command(out: Output) -> None:
        out.result({"nan": float("nan"), "path": Path("a"), b"caf\xe9": [float("inf"), b"\xff\n"], "text": "\udce9"})

    result = CliRunner().invoke(command, ["--json"])
    assert json.loads(result.stdout) == {
        "nan": None,
        "path": "a",
        "caf\\udce9": [None, "\\udcff\\n"],
        "text": "\\udce9",
    }


def test_without_a_terminal_long_silent_work_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("queryopt.cli._SILENCE", 0.0)
    with Output().progress("hashing", 1234) as advance:
        advance(1000)
        advance(200, "slow disk")
    with Output().progress("reading", None, "rows") as advance:
        advance()
    with Output(quiet=True).progress("hashing", 2) as advance:
        advance()
    printed = capsys.readouterr()
    lines = ["hashing: 1,000 of 1,234 images", "hashing: 1,200 of 1,234 images, slow disk", "reading: 1 rows"]
    assert printed.err.splitlines() == lines
    assert printed.out == ""


def test_a_progress_bar_on_a_terminal_shows_rate_and_time_left() -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "x"],
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(follower)
        seen = b""
        while chunk := _read(leader):
            seen += chunk
    os.close(leader)
    assert process.returncode == 0
    assert b"hashing" in seen
    assert b"3/3" in seen
    assert b"images/s" in seen


def test_what_is_said_beside_a_progress_bar_has_lines_of_its_own() -> None:
    program = """
import logging
import click
from queryopt.cli import Command, Output, common_options

@click.command(cls=Command, name="qo-try")
@common_options
def main(out: Output) -> None:
    with out.progress("hashing", 3) as advance:
        advance()
        out.log("log " + "a" * 200)
        out.warn("warn")
        logging.getLogger("queryopt").warning("library")
        print("a result")
        advance()
    out.log("after")

main()
"""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    ) as process:
        os.close(follower)
        seen = b""
        while chunk := _read(leader):
            seen += chunk
        assert process.stdout is not None
        assert process.stdout.read() == b"a result\n"
    os.close(leader)
    # A terminal begins a line anew at \r, and clears it at ESC [2K: nothing may follow a bar on its line.
    lines = [line.rsplit("\x1b[2K")[-1] for line in seen.decode().split("\r\n")]
    for said in ("log " + "a" * 200, "warning: warn", "warning: library", "after"):
        assert [line for line in lines if line.endswith(said)] == [line for line in lines if said in line]
        assert not any("hashing" in line for line in lines if said in line)
        assert any(said in line for line in lines)


def test_a_broken_pipe_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "flood"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_reader_that_is_gone_before_help_is_printed_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, option], stdout=writer, stderr=subprocess.PIPE, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    os.close(writer)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("what", ["x", "x --json", "--help", "--bad", "input"])
def test_closed_streams_change_nothing_but_what_is_seen(closed: str, what: str, tmp_path: Path) -> None:
    # What would go to a closed stream must not end up in the next file that is opened.
    program = PROGRAM.replace(
        "def main(what: str, out: Output) -> None:",
        """def main(what: str, out: Output) -> None:
    with open("a.txt", "w") as file:
        os.write(1, b"from C") + os.write(2, b"from C")
        file.write("whole")
    if what == "input":
        out.warn("input")
        open("none")""",
    )
    (tmp_path / "program.py").write_text(program)
    command = f"exec {sys.executable} program.py {what} {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == {"--bad": 2, "input": 3}.get(what, 0), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if not what.startswith("--"):
        assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize("arguments", [[""], ["x", ""], ["--name", ""], ["--name=", "x"]])
def test_an_empty_argument_is_a_usage_error(arguments: list[str]) -> None:
    """A shell's variable that is not set must not mean the folder that one is in."""
    called: list[str] = []

    @click.command(cls=Command, name="qo-try")
    @click.argument("what", nargs=-1)
    @click.option("--name", type=click.Path(path_type=Path))
    def command(what: tuple[str, ...], name: Path | None) -> None:
        called.append("called")

    for given in (arguments, ["sub", *arguments]):
        main = command if given is arguments else Group("qo-try", commands={"sub": command})
        result = CliRunner().invoke(main, given)
        assert result.exit_code == ExitCode.USAGE
        assert "is empty: a variable that is not set?" in result.output
    assert not called


@pytest.mark.parametrize("option", ["--threads", "--batch"])
@pytest.mark.parametrize("value", ["0", "-1", "2147483648", "99999999999999999999"])
def test_threads_and_batches_that_no_machine_has_are_refused(option: str, value: str) -> None:
    @click.command(cls=Command)
    @threads_option
    @batch_option(32)
    def command(threads: int | None, batch: int) -> None:
        raise AssertionError

    result = CliRunner().invoke(command, [option, value])
    assert result.exit_code == ExitCode.USAGE
    assert option in result.output


@dataclass(frozen=True)
class Size:
    width: int
    height: int


def test_a_group_of_options_arrives_as_one_object_and_keeps_its_place_in_the_help() -> None:
    seen: list[Size] = []
    height = click.option("--height", type=click.IntRange(1), default=2)
    size_options = option_group("size", Size, click.option("--width", type=int, default=1), height)

    @click.command(cls=Command)
    @click.option("--first")
    @size_options
    @common_options
    def command(first: str | None, size: Size, out: Output) -> None:
        seen.append(size)

    assert CliRunner().invoke(command, ["--height", "5"]).exit_code == 0
    assert seen == [Size(1, 5)]
    assert CliRunner().invoke(command, ["--height", "0"]).exit_code == ExitCode.USAGE
    names = [option.name for option in command.params]
    assert names == ["first", "width", "height", "json", "quiet", "verbose", "version"]


def test_what_the_encoding_of_stdout_has_not_is_escaped() -> None:
    program = PROGRAM.replace("/a/long/path", "caf\\u00e9 \\u2192")
    command = [sys.executable, "-c", program, "print"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"caf\\xe9 \\u2192")


def test_ctrl_c_exits_130() -> None:
    done = run("interrupt")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("ä b.jpg", "ä b.jpg"),
        (b"caf\xe9.jpg", "caf\\udce9.jpg"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        (Path("x/y"), "x/y"),
        ("gpj.\u202etxt", "gpj.\\u202etxt"),
        ("می\u200cخواهم 👩\u200d🌾\u202f1.jpg", "می\u200cخواهم 👩\u200d🌾\u202f1.jpg"),
    ],
)
def test_paths_are_shown_on_one_line(path: str | bytes | Path, shown: str) -> None:
    assert display_path(path) == shown


def test_paths_below_the_current_folder_are_said_as_they_are_typed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / os.fsdecode(b"my (1) ph\xff tos")
    here.mkdir()
    monkeypatch.chdir(here)
    shown = display_path(here)
    assert from_here(f"{here}/a.db: is of {here}/b c, --index={here}/d ('{here}/e')") == (
        "a.db: is of b c, --index=d ('e')"
    )
    for other in (f"{shown}: no", f"/mnt{shown}/a", f"{shown}2/a", f"'{shown}/'", str(tmp_path / "a")):
        assert from_here(other) == other

    @click.command(cls=Command, name="qo-try")
    @common_options
    def command(out: Output) -> None:
        out.print(f"out: {shown}/o\nindex: {shown}/i")
        out.log(f"model: {here}/m")
        out.result({"index": here / "i"})
        raise QueryOptError(f"{here}/a.db: no")

    done = CliRunner().invoke(command)
    assert done.stdout == "out: o\nindex: i\n"
    assert done.stderr == "model: m\nqo-try: error: a.db: no\n"
    assert json.loads(CliRunner().invoke(command, ["--json"]).stdout) == {"index": f"{shown}/i"}
    here.rmdir()
    assert from_here(f"{tmp_path}/x") == f"{tmp_path}/x"
    monkeypatch.chdir("/")
    assert from_here("/usr: no") == "/usr: no"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says EIO where the other end of a terminal is closed
        return b""
