"""qo-search --show, on a pseudo-terminal that answers as terminals do."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from queryopt.errors import ExitCode
from queryopt.runtime.cli.infer import main as qo_infer
from queryopt.runtime.cli.search import main

DATA = Path(__file__).parents[2] / "data"
COMMAND = [sys.executable, "-c", "from queryopt.runtime.cli.search import main; main()"]
SIXEL = {b"\x1b[c": b"\x1b[?62;4;22c"}
KITTY = {b"\x1b[c": b"\x1b[?62;22c", b"\x1b_G": b"\x1b_Gi=1;OK\x1b\\"}
PLAIN = {b"\x1b[c": b"\x1b[?62;22c"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/, model.onnx and photos.db."""
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    shutil.copyfile(DATA / "v1" / "model.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(qo_infer, ["photos"]).exit_code == ExitCode.DONE
    return tmp_path


def on_a_terminal(answers: dict[bytes, bytes], *arguments: str, term: str = "xterm-256color") -> tuple[int, bytes]:
    """Exit code and output of the command on a terminal that gives these answers to what it is asked."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 1200, 1000))  # characters of 10 x 20 pixels
    environment = os.environ | {"TERM": term, "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    waiting = dict(answers)
    output = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                output += os.read(ours, 1 << 16)
            except OSError:  # closed: the process has ended
                break
        for question in [question for question in waiting if question in output]:
            os.write(ours, waiting.pop(question))
    os.close(ours)
    return process.wait(timeout=30), output


@pytest.mark.parametrize(
    ("answers", "drawn"),
    [(SIXEL, rb"\x1bP[0-9;]*q"), (KITTY, rb"\x1b_G[^\x1b]*f=100"), (PLAIN, "▀|▄".encode())],
    ids=["sixel", "kitty", "plain"],
)
def test_pictures_are_drawn_as_the_terminal_can(here: Path, answers: dict[bytes, bytes], drawn: bytes) -> None:
    code, output = on_a_terminal(answers, "photos/finch/1.jpg", "-k", "3", "--show")
    assert code == ExitCode.DONE, output
    assert re.search(drawn, output)
    assert b"query" in output
    assert b"2: " in output
    assert b"photos/finch/1.jpg" in output  # the table is there as well
    assert (b"half blocks" in output) == (answers is PLAIN)


def test_where_nothing_can_be_shown_the_tables_come_with_a_word_on_why(here: Path) -> None:
    done = CliRunner().invoke(main, ["photos/finch/1.jpg", "--show"])
    assert done.exit_code == ExitCode.DONE
    assert "the output is no terminal: no pictures; --html" in done.stderr
    assert "photos/finch/1.jpg" in done.stdout
    code, output = on_a_terminal({}, "photos/finch/1.jpg", "--show", term="dumb")
    assert code == ExitCode.DONE
    assert b"shows text alone" in output
    assert b"\x1b[c" not in output


def test_it_goes_with_the_tables_alone(here: Path) -> None:
    done = CliRunner().invoke(main, ["photos/finch/1.jpg", "--show", "--json"])
    assert done.exit_code == ExitCode.USAGE
    assert "--show goes with the tables" in done.stderr
