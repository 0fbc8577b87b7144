"""Several processes at one index, processes that are killed, and disks that are full."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.codes import pack_codes
from queryopt.errors import IndexFileError, UsageError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.connection import open_uri, publish
from queryopt.runtime.index.meta import write_meta

# Adds files of its own, `size` at a time, and prints after each commit.
WRITER = """
    import sys
    import numpy as np
    from queryopt.codes import pack_codes
    from queryopt.runtime.index import HashIndex

    path, name, size, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with HashIndex.open(path) as index:
        for number in range(rounds):
            names = [f"{name}-{number}-{i}" for i in range(size)]
            for one in names:
                (index.root / one).touch()
            logits = np.random.default_rng(number).uniform(-1, 1, (size, 12)).astype(np.float32)
            ids = index.add(names, pack_codes(logits >= 0), logits)
            print(*ids, flush=True)
"""


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    process = start(*arguments)  # type: ignore[arg-type]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_kill_9_loses_nothing_that_was_committed(index: HashIndex) -> None:
    index.close()
    with running(WRITER, index.path, "x", 20, 10**6) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        told += [line.split() for line in process.stdout]
        assert process.wait() == -signal.SIGKILL
    assert os.path.getsize(f"{index.path}-wal") > 0, "killed in the middle: the log is still there"
    with HashIndex.open(index.path) as again:
        assert len(again) in (20 * len(told), 20 * len(told) + 20)
        assert {image.id for image in again} >= {int(id) for line in told for id in line}
        assert again.verify().ok
        assert again.search(np.zeros((1, 2), np.uint8), len(again)).ids.min() == 1
    assert sorted(os.listdir(index.path.parent)) == ["photos", "photos.db"]


def test_two_writers_and_a_reader(index: HashIndex) -> None:
    """Adds interleave, nobody's is lost, ids stay unique, and a reader always sees whole transactions."""
    zero = np.zeros((1, 2), np.uint8)
    with running(WRITER, index.path, "x", 10, 30) as one, running(WRITER, index.path, "y", 10, 30) as two:
        seen = {0}
        with HashIndex.open(index.path, readonly=True) as reader:
            while one.poll() is None or two.poll() is None:
                found = reader.search_radius(zero, 12).ids
                assert len(found) % 10 == 0
                assert len(found) >= max(seen)
                seen.add(len(found))
                time.sleep(0.002)
            outputs = [process.communicate() for process in (one, two)]
            assert [(one.returncode, two.returncode), *(error for _, error in outputs)] == [(0, 0), "", ""]
            assert len(seen) > 2, "the reader saw the index grow"
            assert len(reader.search_radius(zero, 12).ids) == 600
    ids = [int(id) for output, _ in outputs for id in output.split()]
    assert sorted(ids) == list(range(1, 601))
    assert index.verify().ok


def test_a_reader_sees_what_others_commit(index: HashIndex, fill: Callable[..., list[int]]) -> None:
    zero = np.zeros((1, 2), np.uint8)
    with HashIndex.open(index.path) as reader:
        assert reader.search_radius(zero, 12).ids.tolist() == []
        fill(index, ["a", "b"])
        assert sorted(reader.search_radius(zero, 12).ids.tolist()) == [1, 2]
        fill(index, ["a"], seed=5)
        assert reader.search(index[1].code[None], 1).distances.tolist() == [[0]]
        index.remove([1])
        assert reader.search_radius(zero, 12).ids.tolist() == [2]
        fill(reader, ["c"])
        assert sorted(index.search_radius(zero, 12).ids.tolist()) == [2, 3]


@pytest.mark.parametrize("writes", [False, True])
def test_an_index_that_is_opened_twice_in_a_process_keeps_its_locks(
    index: HashIndex, fill: Callable[..., list[int]], writes: bool
) -> None:
    fill(index, ["a", "b"])
    index.close()
    with HashIndex.open(index.path, readonly=not writes) as first:
        HashIndex.open(index.path, readonly=True).close()
        with running(WRITER, index.path, "other", 3, 1) as other:
            other.wait()  # it is not the last to close, so the log stays
        before = len(first)
        assert before == 5
        if writes:
            first.remove(next(iter(first)).id)
            before -= 1
        with running(WRITER, index.path, "third", 4, 1) as third:
            third.wait()
        assert len(first) == before + 4
    with HashIndex.open(index.path) as again:
        assert len(again) == before + 4
        assert again.verify().ok


def test_a_writer_waits_and_then_says_why_not(index: HashIndex, fill: Callable[..., list[int]]) -> None:
    fill(index, ["a"])
    with HashIndex.open(index.path, timeout=0.05) as other, index._store.change():
        with pytest.raises(IndexFileError, match="another process is writing"):
            fill(other, ["b"])
        assert len(other) == 1, "readers go on"
        assert other.search(other[1].code[None], 1).ids.tolist() == [[1]]
    with HashIndex.open(index.path) as other:
        assert fill(other, ["b"]) == [2]


def test_facts_that_two_change_at_once_are_both_kept(index: HashIndex) -> None:
    """The second waits for its turn with what it read before, and must not write that back."""
    with HashIndex.open(index.path) as other:
        waiting = threading.Thread(target=lambda: other._store.set_meta(precision="int8"))
        with index._store.change():
            waiting.start()
            time.sleep(0.2)  # until it waits; were it later, nothing would be lost
            with index._store.read() as connection:
                write_meta(connection, index.path, replace(index._store.meta, precisions=("fp32", "fp16")))
        waiting.join()
        assert other.info().precisions == ("fp32", "fp16", "int8")
    with HashIndex.open(index.path) as again:
        assert again.info().precisions == ("fp32", "fp16", "int8")


# Updates with a slow hasher, as a command does.
UPDATER = """
    import sys, time
    from dataclasses import dataclass
    from pathlib import Path
    import click
    import numpy as np
    from queryopt.cli import Command
    from queryopt.codes import pack_codes
    from queryopt.runtime.index import HashIndex

    @dataclass
    class Batch:
        paths: list
        codes: np.ndarray
        logits: np.ndarray
        failures: dict

    class Hasher:
        model_path = Path("model.onnx")
        def __init__(self, card):
            self.card = card
        def stream(self, paths):
            for path in paths:
                logits = np.full((1, 12), 0.5, np.float32)
                yield Batch([path], pack_codes(logits >= 0), logits, {})
                print("committed", flush=True)
                time.sleep(0.02)

    @click.command(cls=Command, name="updater")
    @click.argument("path")
    def updater(path):
        with HashIndex.open(path) as index:
            index.update(Hasher(index.card))

    updater()
"""


def test_ctrl_c_keeps_what_was_committed(index: HashIndex) -> None:
    for number in range(500):
        (index.root / f"{number}.jpg").touch()
    index.close()
    with running(UPDATER, index.path) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "committed\n"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    with HashIndex.open(index.path) as again:
        assert len(again) >= 3 + rest.count("committed")
        assert len(again) < 500
        assert again.verify().ok
    assert sorted(os.listdir(index.path.parent)) == ["photos", "photos.db"]


def test_a_full_disk_loses_nothing_that_was_committed(index: HashIndex) -> None:
    """The file may not grow beyond a limit, which is how a full disk looks to a process."""
    index.close()
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n" + textwrap.dedent(
        WRITER
    )
    process = start(limited, index.path, "x", 100, 1000)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "IndexFileError" in errors
    assert "disk is full" in errors
    assert "committed before is kept" in errors
    committed = told.split()
    assert len(committed) >= 100
    with HashIndex.open(index.path) as again:
        assert [image.id for image in again] == [int(id) for id in committed]
        assert again.verify().ok
        logits = np.ones((1, 12), np.float32)
        assert again.add(["one.png"], pack_codes(logits >= 0), logits) == [len(committed) + 1]


def test_a_full_database_rolls_back_alone(index: HashIndex, fill: Callable[..., list[int]]) -> None:
    fill(index, ["a"])
    with index._store.read() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    names = [f"{i:0200}" for i in range(200)]
    with pytest.raises(IndexFileError, match="full"):
        fill(index, names)
    assert [image.relative for image in index] == [b"a"]
    assert index.verify().ok
    with index._store.read() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert len(fill(index, names)) == 200


def test_a_new_file_without_all_its_pages_is_not_published(tmp_path: Path) -> None:
    """A disk that fills up while the log is folded into the file leaves the log behind, and closing keeps quiet."""
    path = tmp_path / "new.db"

    def unfolded() -> None:
        with publish(path) as temporary:
            connection = open_uri(temporary, "mode=rwc", timeout=0)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE t (x)")
            kept.append(connection)  # open, and so not folded

    kept: list[Any] = []
    with pytest.raises(IndexFileError, match=r"new\.db: was not written: the disk is full"):
        unfolded()
    kept.pop().close()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_no_obstacle_to_searching(index: HashIndex, fill: Callable[..., list[int]]) -> None:
    """A reader wants room for shared memory, which can't be had; at rest, the file alone is whole."""
    fill(index, ["a", "b"])
    index.close()
    script = """
        import resource, sys
        import numpy as np
        from queryopt.runtime.index import HashIndex
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with HashIndex.open(sys.argv[1], readonly=True) as index:
            print(len(index), index.search(np.zeros((1, 2), np.uint8), 2).ids.min(), index.verify().ok)
    """
    output, errors = start(script, index.path).communicate(timeout=60)
    assert (output, errors) == ("2 1 True\n", "")
    with HashIndex.open(index.path) as again:
        assert len(fill(again, ["c"])) == 1
    assert sorted(os.listdir(index.path.parent)) == ["photos", "photos.db"]


# Opens an index as a user who may read the folder and not write to it.
READER = """
    import logging, os, sys
    import numpy as np
    from queryopt.errors import QueryOptError
    from queryopt.runtime.index import HashIndex
    import queryopt.runtime.index.verify, json, platform

    logging.basicConfig(format="%(message)s")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        with HashIndex.open(sys.argv[1], readonly=len(sys.argv) > 2) as index:
            print(len(index), index.readonly, index.info().access.split(";")[0], index.verify().ok)
            print(index.search(np.zeros((1, 2), np.uint8), 3).ids.tolist())
            index.remove([1])
    except QueryOptError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def locked(index: HashIndex, fill: Callable[..., list[int]]) -> Iterator[Path]:
    """The folder of an index of three images, which nobody but root may write to."""
    fill(index, ["a", "b", "c"])
    index.close()
    folder = index.path.parent
    # Up to the temporary folder, so that another user gets here.
    opened = [
        parent
        for parent in folder.parents
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest-", "popen-"))
    ]
    for parent in opened:
        parent.chmod(0o755)
    folder.chmod(0o555)
    index.path.chmod(0o444)
    yield folder
    folder.chmod(0o755)
    for parent in opened:
        parent.chmod(0o700)


@pytest.mark.parametrize("arguments", [(), ("readonly",)])
def test_a_place_that_can_not_be_written(locked: Path, arguments: tuple[str, ...]) -> None:
    process = start(READER, locked / "photos.db", *arguments)
    output, errors = process.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[0] == "3 True read the file as it lies there True", errors
    assert lines[1].startswith("[[")
    assert lines[2].startswith("UsageError")
    assert "opened to read the file as it lies there" in lines[2]
    assert ("no permission to write here" in errors) == (not arguments)
    assert sorted(os.listdir(locked)) == ["photos", "photos.db"]


def test_a_copy_to_a_place_that_can_not_be_written(locked: Path) -> None:
    output, errors = start(
        READER.replace("index.remove([1])", "index.backup(sys.argv[1] + '.copy')"), locked / "photos.db"
    ).communicate(timeout=60)
    assert output.splitlines()[2].startswith(f"UsageError {locked}/photos.db.copy: can't be written: no permission")
    assert ".tmp" not in output + errors
    assert sorted(os.listdir(locked)) == ["photos", "photos.db"]


def test_an_unfinished_log_where_nothing_can_be_written(locked: Path) -> None:
    """Opened without its log, the index would be as it was before, or not whole."""
    (locked / "photos.db-wal").write_bytes(b"\0" * 5000)
    (locked / "photos.db-wal").chmod(0o444)
    output, _ = start(READER, locked / "photos.db").communicate(timeout=60)
    assert output.startswith("IndexFileError")
    assert "photos.db-wal" in output
    (locked / "photos.db-wal").unlink()


def test_read_only_on_request(index: HashIndex, fill: Callable[..., list[int]], hasher: Any) -> None:
    fill(index, ["a"])
    with HashIndex.open(index.path, readonly=True) as reader:
        assert reader.readonly
        for write in (
            lambda: reader.remove([1]),
            lambda: fill(reader, ["b"]),
            lambda: reader.move_root(index.path.parent),
            lambda: reader.update(hasher),
        ):
            with pytest.raises(UsageError, match="opened to read"):
                write()
    assert not index.readonly
    assert len(index) == 1
