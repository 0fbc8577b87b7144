"""qo-infer: every path through it, on real pictures, the real model and a real index."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from queryopt.errors import MissingError
from queryopt.runtime.cli.infer import main
from queryopt.runtime.cuda.driver import find_gpu
from queryopt.runtime.index import HashIndex

DATA = Path(__file__).parents[2] / "data"
CODES = {n: p["code"] for n, p in json.loads((DATA / "v1" / "expected.json").read_text())["pictures"].items()}
COMMAND = [sys.executable, "-c", "from queryopt.runtime.cli.infer import main; main()"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/ and model.onnx."""
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    shutil.copyfile(DATA / "v1" / "model.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUERYOPT_MODEL", raising=False)
    return tmp_path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def result(*arguments: Any, exit_code: int = 0) -> Any:
    """What it says with --json, which is JSON alone."""
    done = run(*arguments, "--json")
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout)


def codes(index: str | Path = "photos.db") -> dict[str, str]:
    with HashIndex.open(index, readonly=True) as opened:
        return {os.fsdecode(image.relative): image.code.tobytes().hex() for image in opened}


def spoil() -> dict[str, str]:
    """Put bad files among the pictures; their names and what is said of each."""
    Path("photos/a-text.jpg").write_text("no picture")
    Path("photos/finch/2b.jpg").touch()
    os.mkfifo("photos/heron/fifo.png")
    Path("photos/gone.png").symlink_to("nothing")
    Path("photos/loop.png").symlink_to("loop.png")
    Path("photos/heron/cut.jpg").write_bytes(Path("photos/heron/1.jpg").read_bytes()[:900])
    return {
        "a-text.jpg": "text",
        "finch/2b.jpg": "zero bytes",
        "heron/fifo.png": "a FIFO",
        "gone.png": "no such file",
        "loop.png": "leads to itself",
        "heron/cut.jpg": "truncated",
    }


def test_a_folder_and_nothing_else() -> None:
    done = run("photos/")
    assert done.exit_code == 0, done.output
    assert "index: photos.db (new)" in done.stderr
    assert "model: model.onnx (12 bits, onnxruntime" in done.stderr
    assert re.search(r"^8 hashed, 0 updated, 0 unchanged, 0 failed in .* s \(.* images/s\)$", done.stdout, re.M)
    assert "index: photos.db (8 pictures)" in done.stdout
    assert codes() == CODES


def test_verbose_says_what_there_is_to_do() -> None:
    done = run("photos", "-v")
    assert re.search(r"^debug: .*model\.onnx: tiny, fp32, 32 pixels, fingerprint 9287e8b6", done.stderr, re.M)
    assert "debug: photos: 8 new or changed, 0 unchanged, 0 gone\n" in done.stderr
    assert "left out" not in done.stderr
    assert "debug" not in run("photos").stderr
    for name in ("finch/noending", "finch/a.TXT", "finch/b.txt", ".hidden.jpg"):
        shutil.copy("photos/finch/1.jpg", f"photos/{name}")
    for options in ([], ["--no-index", "--out", "codes.csv"]):
        done = run("photos", "-v", *options)
        said = "debug: photos: 4 names left out that no picture's is: 2 .txt, 1 .*, 1 .*\n"
        assert re.search(said, done.stderr), done.stderr
        assert "1 without an ending" in done.stderr
        assert "1 hidden" in done.stderr


def test_again_it_does_what_is_new_or_changed() -> None:
    assert result("photos")["hashed"] == 8
    again = result("photos")
    assert (again["hashed"], again["updated"], again["unchanged"], again["images_per_second"]) == (0, 0, 8, None)
    shutil.copy("photos/heron/1.jpg", "photos/finch/1.jpg")
    shutil.copy("photos/heron/2.jpg", "photos/new.jpg")
    third = result("photos")
    assert (third["hashed"], third["updated"], third["unchanged"], third["images"]) == (1, 1, 7, 9)
    assert codes()["finch/1.jpg"] == CODES["heron/1.jpg"]
    assert codes()["new.jpg"] == CODES["heron/2.jpg"]


def ids() -> dict[str, int]:
    with HashIndex.open("photos.db", readonly=True) as opened:
        return {os.fsdecode(image.relative): image.id for image in opened}


def found(name: str) -> list[str]:
    """The pictures that have the code that a picture of tests/data has, as a search finds them."""
    code = np.frombuffer(bytes.fromhex(CODES[name]), np.uint8)[None]
    with HashIndex.open("photos.db", readonly=True) as opened:
        return [os.fsdecode(opened[id].relative) for id in opened.search_radius(code, 0).ids]


def test_unchanged_ones_are_not_even_read() -> None:
    run("photos")
    for path in Path("photos").rglob("*.*"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = result("photos")
    assert (again["hashed"], again["unchanged"], again["failed"], again["stale"]) == (0, 8, {}, {})
    assert codes() == CODES


def test_a_folder_over_time() -> None:
    """Changed, spoilt, mended, deleted and new pictures: each keeps its id, and a search finds what is there."""
    run("photos")
    first = ids()
    assert found("finch/1.jpg") == ["finch/1.jpg"]

    shutil.copy("photos/heron/1.jpg", "photos/finch/1.jpg")
    changed = result("photos")
    assert (changed["updated"], changed["unchanged"]) == (1, 7)
    assert ids() == first
    assert found("heron/1.jpg") == ["finch/1.jpg", "heron/1.jpg"]
    assert found("finch/1.jpg") == []

    sound = Path("photos/heron/2.jpg").read_bytes()
    Path("photos/heron/2.jpg").write_bytes(sound[:500])
    for _ in range(2):
        spoilt = result("photos", exit_code=1)
        assert [Path(path).name for path in spoilt["stale"]] == ["2.jpg"]
        assert (spoilt["unchanged"], spoilt["failed"]) == (7, {})
        assert found("heron/2.jpg") == ["heron/2.jpg"]
    assert "2.jpg: truncated" in run("photos").stderr
    Path("photos/heron/2.jpg").write_bytes(sound)
    mended = result("photos")
    assert (mended["updated"], mended["stale"]) == (1, {})
    assert ids() == first

    os.unlink("photos/heron/4.png")
    shutil.copy("photos/heron/3.jpg", "photos/new.jpg")
    moved = result("photos", "--prune")
    assert (moved["hashed"], moved["unchanged"], moved["removed"], moved["images"]) == (1, 7, 1, 8)
    del first["heron/4.png"]
    assert ids() == first | {"new.jpg": 9}
    assert found("heron/3.jpg") == ["heron/3.jpg", "new.jpg"]
    assert found("heron/4.png") == []
    with HashIndex.open("photos.db", readonly=True) as index:
        assert index.verify().ok


def test_bad_files_are_named_with_their_reasons(here: Path) -> None:
    bad = spoil()
    done = run("photos")
    assert done.exit_code == 1
    for name, reason in bad.items():
        assert re.search(f"^warning: {re.escape(f'photos/{name}')}: .*{reason}", done.stderr, re.M), name
    assert "8 hashed, 0 updated, 0 unchanged, 6 failed" in done.stdout
    assert codes() == CODES
    failed = result("photos", exit_code=1)["failed"]
    assert {os.path.relpath(path, here / "photos") for path in failed} == set(bad)


def test_folders_that_are_not_looked_into_are_named_once(here: Path) -> None:
    Path("photos/linked").symlink_to(here)
    done = run("photos")
    assert done.exit_code == 0
    assert done.stderr.count("photos/linked: a link to a folder that") == 1


@pytest.mark.parametrize("options", [[], ["--no-index", "--out", "codes.csv"]])
def test_a_folder_that_cannot_be_looked_into_is_named_and_exit_1(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def denied(path: Any = ".") -> Any:
        if os.fsdecode(path).endswith("heron"):  # to root, nothing is denied
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    done = run("photos", *options)
    assert done.exit_code == 1
    assert "warning: photos/heron: permission denied\n" in done.stderr
    assert "4 hashed, 0 updated, 0 unchanged, 1 failed" in done.stdout
    for path in Path("photos/finch").iterdir():
        path.rename(path.with_suffix(".txt"))
    done = run("photos", *(options or ["--index", "new.db"]))
    assert done.exit_code == 3
    assert "heron: permission denied" in done.stderr


def test_names_that_are_not_text(here: Path) -> None:
    for name in (b"\xff\xfe.jpg", b"a\nb.jpg", b"=1+2.jpg"):
        shutil.copy("photos/finch/1.jpg", here / "photos" / os.fsdecode(name))
    Path(os.fsdecode(b"photos/\xffbad\n.jpg")).touch()
    done = run("photos", "--out", "codes.csv")
    assert done.exit_code == 1
    assert r"\udcffbad\n.jpg: zero bytes" in done.stderr
    with HashIndex.open("photos.db", readonly=True) as index:
        assert {image.relative for image in index} >= {b"\xff\xfe.jpg", b"a\nb.jpg", b"=1+2.jpg"}


class TestNothingUsable:
    def test_empty_folder(self) -> None:
        Path("empty").mkdir()
        done = run("empty")
        assert done.exit_code == 3
        assert "empty: no pictures in this folder or below it" in done.stderr
        assert not Path("photos.db").exists()

    def test_a_folder_that_became_empty(self) -> None:
        run("photos")
        shutil.rmtree("photos")
        Path("photos").mkdir()
        for options in ([], ["--json"]):
            done = run("photos", *options)
            assert (done.exit_code, done.stdout) == (3, "")
            assert "photos: no pictures in this folder or below it" in done.stderr
            assert "the 8 of the index are kept" in done.stderr
        assert codes() == CODES
        assert result("photos", "--prune", "--force")["removed"] == 8

    @pytest.mark.parametrize("options", [[], ["--out", "codes.csv"], ["--no-index", "--out", "codes.csv"]])
    def test_only_bad_files(self, options: list[str]) -> None:
        Path("bad").mkdir()
        Path("bad/a.jpg").touch()
        Path("bad/b.png").write_text("x")
        done = run("bad", *options)
        assert done.exit_code == 3
        assert done.stderr.count("a.jpg: zero bytes") == 1
        assert "nothing in it could be read: each of the 2 is named" in done.stderr
        assert not Path("photos.db").exists()
        assert not Path("codes.csv").exists()

    def test_no_folder(self) -> None:
        done = run("none")
        assert (done.exit_code, done.stdout) == (3, "")
        assert "none: no such folder" in done.stderr

    def test_a_file(self) -> None:
        done = run("photos/finch/1.jpg")
        assert done.exit_code == 3
        assert "not a folder" in done.stderr
        assert "qo-search photos/finch/1.jpg" in done.stderr

    def test_no_model(self) -> None:
        os.unlink("model.onnx")
        done = run("photos")
        assert done.exit_code == 3
        assert "--model" in done.stderr

    def test_damaged_model(self) -> None:
        Path("model.onnx").write_bytes(b"hello" * 100)
        done = run("photos")
        assert done.exit_code == 3
        assert "model.onnx: not a model" in done.stderr
        assert "Traceback" not in done.stderr


def test_model_of_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "elsewhere").mkdir()
    shutil.move("model.onnx", "elsewhere/m.onnx")
    monkeypatch.setenv("QUERYOPT_MODEL", "elsewhere/m.onnx")
    assert result("photos")["model"] == str(here / "elsewhere" / "m.onnx")


def has_gpu() -> bool:
    try:
        find_gpu()
    except MissingError:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_an_index_goes_on_with_its_own_model_though_there_are_newer_ones(changed_model: Any) -> None:
    def another(model: Any) -> None:
        entry = next(p for p in model.metadata_props if p.key == "queryopt.card")
        entry.value = json.dumps(json.loads(entry.value) | {"fingerprint": "0" * 64})

    Path("model.onnx").rename("first.onnx")
    run("photos", "--model", "first.onnx")
    shutil.copyfile(changed_model(another), "model.onnx")
    assert result("photos")["model"] == str(Path("first.onnx").resolve())
    Path("first.onnx").unlink()
    assert "another model" in run("photos").output


def test_an_engine_is_not_taken_where_there_is_no_gpu(here: Path) -> None:
    shutil.copyfile("model.onnx", "model.plan")
    assert result("photos")["model"] == str(here / "model.onnx")


def test_rebuild_is_for_an_engine() -> None:
    done = run("photos", "--model", "model.onnx", "--rebuild")
    assert done.exit_code == 2
    assert "--rebuild is for a model.plan" in done.stderr


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_rebuild_needs_a_gpu() -> None:
    done = run("photos", "--model", "model.plan", "--rebuild")
    assert done.exit_code == 4
    assert "driver" in done.stderr
    assert not Path("photos.db").exists()


def test_index_of_another_folder_or_model_is_refused(changed_model: Any) -> None:
    run("photos")
    shutil.copytree("photos", "other")
    done = run("other")
    assert done.exit_code == 2
    assert "photos.db is the index of photos, not of other: " in done.stderr
    assert "--index other.db\n" in done.stderr
    assert run("other", "--index", "other.db").exit_code == 0
    shutil.move("other.db", "photos.db")
    assert run("photos").stderr.endswith("--index photos-2.db\n"), "not the index that is refused"
    assert run("photos", "--index", "photos-2.db").exit_code == 0
    shutil.move("photos-2.db", "photos.db")

    def foreign(model: Any) -> None:
        entry = next(p for p in model.metadata_props if p.key == "queryopt.card")
        entry.value = json.dumps(json.loads(entry.value) | {"fingerprint": "0" * 64})

    done = run("photos", "--model", changed_model(foreign))
    assert done.exit_code == 2
    assert codes() == CODES


def test_prune() -> None:
    run("photos")
    os.unlink("photos/finch/1.jpg")
    done = run("photos")
    assert done.exit_code == 0
    assert "1 in the index are gone from the folder: --prune removes them" in done.stdout
    assert len(codes()) == 8
    assert result("photos", "--prune")["removed"] == 1
    assert len(codes()) == 7
    shutil.rmtree("photos/heron")
    assert run("photos", "--prune").exit_code == 3
    assert len(codes()) == 7
    assert result("photos", "--prune", "--force")["removed"] == 4
    assert len(codes()) == 3


@pytest.mark.parametrize("keep", [[], ["--no-index"]])
@pytest.mark.parametrize("name", ["codes.npz", "codes.csv", "codes.parquet"])
def test_out(name: str, keep: list[str]) -> None:
    spoil()
    Path(name).write_text("mine")
    done = run("photos", "--out", name, *keep)
    assert (done.exit_code, Path(name).read_text()) == (2, "mine")
    assert not Path("photos.db").exists(), "refused before the work, not after it"
    Path(name).unlink()
    assert run("photos", "--out", name, "--batch", 3, *keep).exit_code == 1
    assert Path("photos.db").exists() == (not keep)
    numbers = {path: int.from_bytes(bytes.fromhex(code), "little") for path, code in CODES.items()}
    if name.endswith(".npz"):
        with np.load(name, allow_pickle=False) as file:
            found = dict(zip(map(os.fsdecode, file["paths"]), map(bytes, file["codes"]), strict=True))
            assert file["labels"].tolist() == [path.split("/")[0] for path in sorted(CODES)]
        assert {path: code.hex() for path, code in found.items()} == CODES
    elif name.endswith(".csv"):
        with open(name, encoding="utf-8", newline="") as text:
            assert {row["path"]: int(row["code"], 16) for row in csv.DictReader(text)} == numbers
    else:
        import pyarrow.parquet as pq

        table = pq.read_table(name)
        assert dict(zip(table["path"].to_pylist(), table["code"].to_pylist(), strict=True)) == numbers


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--no-index"], "--out"),
        (["--no-index", "--out", "a.csv", "--prune"], "--no-index doesn't go with"),
        (["--no-index", "--out", "a.csv", "--index", "x.db"], "--no-index doesn't go with"),
        (["--force"], "--prune"),
        (["--out", "codes.txt"], ".parquet"),
        (["--out", "nowhere/codes.csv"], "there is no folder nowhere"),
        (["--backend", "onxruntime"], "did you mean onnxruntime"),
        (["--batch", "0"], "--batch"),
        (["--threads", "x"], "--threads"),
        (["--device", "tpu"], "--device"),
        (["--modle", "x"], "--model"),
    ],
)
def test_wrong_usage(options: list[str], says: str) -> None:
    done = run("photos", *options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not Path("photos.db").exists()


def test_inputs_are_never_modified() -> None:
    spoil()
    before = {p: (p.lstat().st_mtime_ns, p.lstat().st_size, p.lstat().st_mode) for p in Path("photos").rglob("*")}
    run("photos")
    assert {
        p: (p.lstat().st_mtime_ns, p.lstat().st_size, p.lstat().st_mode) for p in Path("photos").rglob("*")
    } == before


def test_piped_nothing_is_drawn_and_json_is_alone() -> None:
    done = subprocess.run([*COMMAND, "photos", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["hashed"] == 8
    assert "\x1b" not in done.stderr
    assert all(line.startswith(("model: ", "backend: ", "index: ")) for line in done.stderr.splitlines())
    quiet = subprocess.run([*COMMAND, "photos", "-q"], capture_output=True, text=True, check=True)
    assert quiet.stderr == ""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_broken_off_it_keeps_what_was_committed(sent: signal.Signals, code: int) -> None:
    for number in range(6000):
        os.link("photos/finch/1.jpg", f"photos/{number:05d}.jpg")
    process = subprocess.Popen(
        [*COMMAND, "photos", "--batch", "4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and (not Path("photos.db").exists() or not _count()):
        time.sleep(0.02)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    kept = _count()
    assert 0 < kept < 6008
    assert kept % 4 == 0, "whole batches"
    with HashIndex.open("photos.db") as index:
        assert index.verify().ok
        assert [image.id for image in index] == list(range(1, kept + 1))
    assert set(codes().values()) == {CODES["finch/1.jpg"]}
    for path in sorted(Path("photos").glob("*.jpg"))[kept + 10 :]:
        path.unlink()
    after = result("photos")
    assert (after["unchanged"], after["hashed"], after["updated"], after["failed"]) == (kept, 18, 0, {})
    assert sorted(os.listdir()) == ["model.onnx", "photos", "photos.db"]


@pytest.mark.parametrize("before", [0, 8])
def test_two_at_once_lose_and_double_nothing(before: int) -> None:
    if before:
        run("photos")
    for number in range(200):
        os.link("photos/finch/1.jpg", f"photos/{number:03d}.jpg")
    processes = [
        subprocess.Popen([*COMMAND, "photos", "--batch", "4", "--json", "-q"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(one["hashed"] for one in done) == 208 - before
    with HashIndex.open("photos.db", readonly=True) as index:
        assert index.verify().ok
        assert sorted(image.id for image in index) == list(range(1, 209))


def _count() -> int:
    from queryopt.errors import QueryOptError

    try:
        with HashIndex.open("photos.db", readonly=True) as index:
            return len(index)
    except QueryOptError:  # it is being made
        return 0


def test_codes_that_tell_classes_apart_no_more_are_warned_of_over_the_whole_index() -> None:
    few = f"{len(set(CODES.values()))} different codes for 68 pictures"
    for number in range(60):
        shutil.copy("photos/finch/1.jpg", f"photos/{('finch', 'heron')[number % 2]}/copy{number}.jpg")
    assert any(f"warning: {few} of 2 classes" in line for line in run("photos").stderr.splitlines())
    again = result("photos")
    assert (again["hashed"], [said for said in again["warnings"] if said.startswith(few)] != []) == (0, True)
    shutil.move("photos/heron", "heron")
    for path in Path("heron").glob("copy*"):
        shutil.move(path, "photos/finch")
    explained = result("photos", "--prune")  # they are of one class now
    assert not [said for said in explained["warnings"] if "different codes" in said]
