"""qo-infer --watch: a real process, real files, a real index."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from queryopt.errors import ExitCode
from queryopt.runtime.cli.infer import main
from queryopt.runtime.index import HashIndex

DATA = Path(__file__).parents[2] / "data"
COMMAND = [sys.executable, "-c", "from queryopt.runtime.cli.infer import main; main()", "photos", "--watch", "--json"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/ and model.onnx."""
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    shutil.copyfile(DATA / "v1" / "model.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUERYOPT_MODEL", raising=False)
    return tmp_path


class Watcher:
    """A process that watches. until: reads its events up to one that fits; all that came are in `events`."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--settle", "0.15", "--threads", "1", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            self.events.append(json.loads(self._lines.get(timeout=30)))
            if fits(self.events[-1]):
                return self.events[-1]

    def total(self, key: str, count: int) -> None:
        """Wait until so many were counted in all."""
        if sum(event.get(key, 0) for event in self.events) < count:
            self.until(lambda _: sum(event.get(key, 0) for event in self.events) >= count)

    def stop(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        return self.process.wait(timeout=30), errors


@contextlib.contextmanager
def watching(*options: str) -> Iterator[Watcher]:
    watcher = Watcher(*options)
    try:
        watcher.until(lambda event: event["event"] == "started")
        yield watcher
    finally:
        watcher.process.kill()
        watcher.process.wait()
        watcher.reader.join()
        for stream in (watcher.process.stdout, watcher.process.stderr):
            assert stream is not None
            stream.close()


def relative() -> dict[str, bool]:
    """What the index holds: path -> stale."""
    with HashIndex.open("photos.db", readonly=True) as index:
        return {os.fsdecode(image.relative): image.stale for image in index}


def test_additions_changes_and_deletions_come_in_and_ctrl_c_ends_it() -> None:
    first, last = (Path("photos/finch", name).read_bytes() for name in ("1.jpg", "2.jpg"))
    with watching() as watcher:
        assert watcher.events[0]["hashed"] == 8
        # A new folder with pictures, one that is moved in, a name that no text is, hidden and other files.
        shutil.copytree("photos/heron", "photos/new/deep/heron")
        Path("elsewhere").mkdir()
        Path("elsewhere/a.jpg").write_bytes(last)
        os.rename("elsewhere", "photos/moved")
        Path(os.fsdecode(b"photos/finch/caf\xe9.jpg")).write_bytes(first)
        Path("photos/.hidden.jpg").write_bytes(first)
        Path("photos/notes.txt").write_text("no picture")
        watcher.total("hashed", 8 + 4 + 2)
        # A file that is written slowly is hashed once, when it is whole.
        with open("photos/finch/slow.jpg", "wb") as file:
            for start in range(0, len(first), len(first) // 4):
                file.write(first[start : start + len(first) // 4])
                file.flush()
                with contextlib.suppress(queue.Empty):
                    watcher.events.append(json.loads(watcher._lines.get(timeout=0.08)))
        watcher.total("hashed", 15)
        Path("photos/finch/1.jpg").write_bytes(last)
        os.utime("photos/finch/1.jpg", ns=(1, 1))
        watcher.total("updated", 1)
        # One that can't be read is tried again: it may be in the middle of being written.
        Path("photos/finch/late.jpg").write_bytes(first[: len(first) // 2])
        watcher.until(lambda event: "late.jpg" in str(event["failed"]))
        Path("photos/finch/late.jpg").write_bytes(first)
        watcher.total("hashed", 16)
        shutil.rmtree("photos/new")
        os.unlink("photos/heron/1.jpg")
        gone = 0
        while gone < 5:
            gone += len(watcher.until(lambda event: bool(event["vanished"]))["vanished"])
        found = relative()
        assert len(found) == 16
        assert sorted(path for path, stale in found.items() if stale) == sorted(
            ["heron/1.jpg", *(f"new/deep/heron/{path.name}" for path in (DATA / "pictures" / "heron").iterdir())]
        )
        code, errors = watcher.stop(signal.SIGINT)
        assert code == ExitCode.SOME_FAILED, errors  # late.jpg was named
        assert "late.jpg: truncated" in errors
        assert "Traceback" not in errors
    assert not Path("photos.db-wal").exists()


def test_with_prune_what_is_gone_is_removed_but_not_most_of_it_and_sigterm_ends_it() -> None:
    with watching("--prune") as watcher:
        os.unlink("photos/heron/1.jpg")
        watcher.total("removed", 1)
        shutil.rmtree("photos/heron")
        shutil.rmtree("photos/finch")
        refused = watcher.until(lambda event: bool(event["refused"]))
        assert "more than half" in refused["refused"]
        assert refused["images"] > 0
        code, errors = watcher.stop(signal.SIGTERM)
        assert code == ExitCode.DONE, errors
        assert "--force" in errors
    assert watcher.events[0]["hashed"] == 8


def test_a_folder_that_goes_away_changes_nothing_until_it_is_back() -> None:
    with watching("--prune") as watcher:
        os.rename("photos", "away")
        watcher.until(lambda event: event["event"] == "gone")
        assert len(relative()) == 8
        shutil.copyfile("away/finch/1.jpg", "away/finch/more.jpg")
        os.rename("away", "photos")
        watcher.until(lambda event: event["event"] == "back")
        watcher.total("hashed", 9)
        # It is watched again.
        shutil.copyfile("photos/finch/1.jpg", "photos/finch/and-more.jpg")
        watcher.total("hashed", 10)
        code, errors = watcher.stop(signal.SIGINT)
        assert code == ExitCode.DONE, errors
        assert "not there: nothing is changed" in errors
    assert len(relative()) == 10
    assert not any(relative().values())


def test_an_index_that_is_moved_ends_it_with_a_word(here: Path) -> None:
    with watching() as watcher:
        Path("photos.db").rename("elsewhere.db")
        assert watcher.process.wait(timeout=30) == ExitCode.INPUT
        assert watcher.process.stderr is not None
        said = watcher.process.stderr.read()
    assert "photos.db: the index was deleted, moved or made anew" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watch", "--out", "codes.csv"], "--watch keeps an index"),
        (["--watch", "--no-index", "--out", "codes.csv"], "--watch keeps an index"),
        (["--settle", "0"], "--settle"),
    ],
)
def test_what_does_not_go_together_is_said(options: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["photos", *options])
    assert done.exit_code == ExitCode.USAGE
    assert message in done.stderr
