"""qo-index: every command's good path, and what it says when something is wrong."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from queryopt.runtime import Hasher
from queryopt.runtime.cli.index import main
from queryopt.runtime.index import HashIndex

DATA = Path(__file__).parents[2] / "data"
FOUND_NONE = {"found": 0, "checked": 9, "images": 9}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos.db of eight pictures in photos/ and of a ninth (id 10) that is stale."""
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    shutil.copyfile(DATA / "v1/index.db", tmp_path / "photos.db")
    monkeypatch.chdir(tmp_path)
    with HashIndex.open("photos.db") as index:
        index.move_root("photos")
    return tmp_path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in arguments])


def result(*arguments: Any) -> Any:
    """What a command says with --json, which is JSON alone."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_help_shows_examples() -> None:
    commands = ["info", "verify", "duplicates", "remove", "export", "merge", "backup", "root"]
    assert run("--help").exit_code == 0
    for command in commands:
        done = run(command, "--help")
        assert done.exit_code == 0
        assert f"qo-index {command} " in done.stdout
    assert run("--version").stdout.startswith("qo-index ")


def test_info(here: Path) -> None:
    done = run("info", "photos.db")
    assert done.exit_code == 0
    assert "pictures    9, 1 of them stale" in done.stdout
    assert "folder      photos\n" in done.stdout
    facts = result("info", "photos.db")
    assert (facts["images"], facts["stale"], facts["labels"], facts["last_id"], facts["bits"]) == (9, 1, 2, 10, 12)
    assert facts["root"] == str(here / "photos")
    assert facts["card"]["backbone"] == "tiny"
    shutil.move("photos", "moved")
    assert "(not there)" in run("info", "photos.db").stdout


def test_verify_and_repair() -> None:
    done = run("verify", "photos.db")
    assert done.exit_code == 0
    assert "9 pictures and 1 block checked, all well" in done.stdout
    assert result("verify", "photos.db")["ok"] is True

    connection = sqlite3.connect("photos.db")
    with connection:
        connection.execute("UPDATE blocks SET live = zeroblob(512)")
    connection.close()
    done = run("verify", "photos.db")
    assert done.exit_code == 1
    assert "block 0 (ids 0..4095) is damaged" in done.stderr
    assert "--repair" in done.stderr
    done = run("verify", "photos.db", "--repair")
    assert done.exit_code == 0
    assert "mended: photos.db: block 0 (ids 0..4095) was built anew from 9 rows\n" in done.stderr
    assert run("verify", "photos.db").exit_code == 0

    connection = sqlite3.connect("photos.db")
    with connection:
        connection.execute("UPDATE images SET label = 'cat' WHERE id = 4")
    connection.close()
    done = run("verify", "photos.db", "--repair")
    assert done.exit_code == 1
    assert "image 4 ('finch/4.png') is damaged" in done.stderr


def test_duplicates_are_named_with_what_tells_which_to_keep(here: Path) -> None:
    with Image.open("photos/finch/1.jpg") as image:
        image.resize((image.width // 2, image.height // 2)).save("photos/heron/small.png")
        size = f"{image.width} x {image.height}"
    with Hasher(DATA / "v1/model.onnx", threads=1) as hasher, HashIndex.open("photos.db") as index:
        index.update(hasher, prune=True)
    done = run("duplicates", "photos.db")
    assert done.exit_code == 0, done.output
    first, second = (line.split() for line in done.stdout.splitlines()[1:3])
    assert (" ".join(first[:3]), first[-1], second[-1]) == (size, "finch/1.jpg", "heron/small.png")
    assert done.stdout.splitlines()[-1] == "1 group of copies, 2 pictures of 9"
    [[keep, small]] = result("duplicates", "photos.db")["groups"]
    assert (keep["path"], small["path"], small["bytes"]) == (
        "finch/1.jpg",
        "heron/small.png",
        os.stat("photos/heron/small.png").st_size,
    )
    os.remove("photos/heron/small.png")
    done = run("duplicates", "photos.db")
    assert done.exit_code == 1
    assert "heron/small.png: not there any more" in done.stderr


def test_the_bar_of_verify_counts_pictures() -> None:
    shown: list[Any] = []

    @contextmanager
    def progress(description: str, total: int | None, unit: str = "") -> Iterator[Any]:
        shown.append(total)
        yield lambda count=1, note=None: shown.append(count)

    with HashIndex.open("photos.db") as index:
        index.verify(progress=progress)
    assert shown == [9, 9]


@pytest.mark.parametrize("path", ["photos/finch/1.jpg", "finch/1.jpg", "./photos/../photos/finch/1.jpg"])
def test_remove_by_path(path: str) -> None:
    done = run("remove", "photos.db", path)
    assert done.exit_code == 0, done.output
    assert done.stdout == "1 removed, 8 left\n"
    assert Path("photos/finch/1.jpg").exists(), "never from the disk"
    with HashIndex.open("photos.db") as index:
        assert 1 not in index


def test_what_may_not_be_read_can_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access  # to root, which may read all, let the system say what it says to others
    monkeypatch.setattr(os, "access", lambda path, *mode: b".jpg" not in os.fsencode(path) and access(path, *mode))
    assert result("remove", "photos.db", "photos/finch/1.jpg") == {"removed": 1, "images": 8}


def test_remove_by_id_and_by_a_name_that_is_no_text() -> None:
    assert result("remove", "photos.db", "--ids", "2", "3") == {"removed": 2, "images": 7}
    assert result("remove", "photos.db", b"\xff\n.jpg") == {"removed": 1, "images": 6}


def test_remove_all_or_none() -> None:
    done = run("remove", "photos.db", "photos/finch/1.jpg", "photos/finch/99.jpg")
    assert done.exit_code == 2
    assert "nothing was removed" in done.stderr
    assert "99.jpg" in done.stderr
    assert "'photos/finch/99.jpg'" in done.stderr
    done = run("remove", "photos.db", "1")
    assert done.exit_code == 2
    assert "--ids takes ids" in done.stderr
    done = run("remove", "photos.db", "--ids", "1", "one")
    assert done.exit_code == 2
    assert "an id is a whole number" in done.stderr
    with HashIndex.open("photos.db") as index:
        assert len(index) == 9


@pytest.mark.parametrize("name", ["codes.npz", "codes.csv", "codes.parquet"])
def test_export(name: str) -> None:
    assert result("export", "photos.db", name) == {"codes": 9, "out": name}
    assert Path(name).stat().st_size > 0
    assert run("export", "photos.db", name).exit_code == 0
    Path(name).write_text("mine")
    done = run("export", "photos.db", name)
    assert (done.exit_code, Path(name).read_text()) == (2, "mine")
    assert "holds no codes" in done.stderr
    done = run("export", "photos.db", "codes.xls")
    assert done.exit_code == 2
    assert ".parquet" in done.stderr


def test_merge_into_a_new_index(here: Path) -> None:
    for name in ("finch", "heron"):
        shutil.copyfile("photos.db", f"{name}.db")
        with HashIndex.open(f"{name}.db") as index:
            index.move_root("photos")
            index.remove([image.id for image in index if image.label != name])
    done = run("merge", "all.db", "finch.db", "heron.db")
    assert done.exit_code == 0, done.output
    assert done.stdout == "8 added, 0 updated, 0 kept; 8 pictures\n"
    assert result("merge", "all.db", "photos.db")["added"] == 1
    with HashIndex.open("all.db") as merged, HashIndex.open("photos.db") as index:
        assert merged.root == here / "photos"
        assert {i.relative: bytes(i.code) for i in merged} == {i.relative: bytes(i.code) for i in index}
    done = run("merge", "all.db", "photos.db", "--root", here)
    assert done.exit_code == 2
    assert "leave --root out" in done.stderr


def test_a_merge_that_can_not_be_makes_no_file(tmp_path: Path) -> None:
    with HashIndex.open("photos.db") as index:
        card = index.card
    from dataclasses import replace

    HashIndex.create("other.db", replace(card, fingerprint="0" * 64), "photos").close()
    done = run("merge", "all.db", "photos.db", "other.db")
    assert done.exit_code == 2
    assert "is another model" in done.stderr
    assert "hash the pictures of one of the two again" in done.stderr
    assert "--index" not in done.stderr
    done = run("merge", "all.db", "photos.db", "nowhere.db")
    assert done.exit_code == 3
    HashIndex.create("root.db", card, "/usr").close()
    done = run("merge", "all.db", "photos.db", "root.db")
    assert done.exit_code == 2
    assert "--root /" in done.stderr
    assert not Path("all.db").exists()


def test_backup() -> None:
    done = run("backup", "photos.db", "copy.db")
    assert done.exit_code == 0
    assert done.stdout == "9 pictures: copy.db\n"
    assert run("verify", "copy.db").exit_code == 0
    done = run("backup", "photos.db", "copy.db")
    assert done.exit_code == 2
    assert "already" in done.stderr


def test_root(here: Path) -> None:
    shutil.move("photos", "moved")
    assert result("root", "photos.db", "moved")["root"] == str(here / "moved")
    with HashIndex.open("photos.db") as index:
        assert Path(index[1].path).exists()
    done = run("root", "photos.db", "nowhere")
    assert done.exit_code == 3
    assert "no such folder" in done.stderr
    shutil.move("moved/heron", "heron")
    done = run("root", "photos.db", "moved")
    assert done.exit_code == 0
    assert done.stdout == "photos.db: its pictures are below moved\n"
    assert done.stderr == "warning: looked for 9 pictures there, and 5 of them are missing\n"


def test_a_root_that_has_none_of_the_pictures_is_refused(here: Path) -> None:
    Path("empty").mkdir()
    done = run("root", "photos.db", "empty")
    assert done.exit_code == 3
    assert (
        "empty: none of the index's images is there (looked for 9 of 9, the first of them 'finch/1.jpg')" in done.stderr
    )
    assert "--force" in done.stderr
    assert result("info", "photos.db")["root"] == str(here / "photos")
    forced = result("root", "photos.db", "empty", "--force")
    assert forced == {"index": str(here / "photos.db"), "root": str(here / "empty"), **FOUND_NONE}


@pytest.mark.parametrize(
    "arguments",
    [("info",), ("verify",), ("remove", "a.jpg"), ("export", "c.csv"), ("backup", "b.db"), ("merge", "photos.db")],
)
@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_a_file_that_is_no_index(arguments: tuple[str, ...], kind: str) -> None:
    if kind in ("empty", "text"):
        Path("bad.db").write_text("" if kind == "empty" else "no index" * 50)
    elif kind == "folder":
        Path("bad.db").mkdir()
    elif arguments[0] == "merge":
        arguments = ("merge", "nowhere.db")
    done = run(arguments[0], "bad.db", *arguments[1:])
    assert done.exit_code == 3
    assert "error: " in done.stderr
    assert "bad.db" in done.stderr or "nowhere.db" in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_a_wrong_command_is_answered_with_a_usage_error() -> None:
    for arguments in ((), ("inof", "photos.db"), ("info",), ("remove", "photos.db")):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "Usage" in done.output


def test_as_a_process_with_a_closed_pipe() -> None:
    """`qo-index info --json | head -1` prints no traceback."""
    code = "from queryopt.runtime.cli.index import main; main()"
    command = f'"{sys.executable}" -c "{code}" info photos.db --json | head -c 1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("{", "", 0)
