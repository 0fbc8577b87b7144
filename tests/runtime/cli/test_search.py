import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from queryopt.card import ModelCard
from queryopt.runtime.cli.search import main
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index import HashIndex

DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "v1" / "model.onnx"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with photos/ and its index photos.db, to copy."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(DATA / "pictures", folder / "photos")
    hasher = Hasher(MODEL, threads=1)
    with HashIndex.create(folder / "photos.db", hasher.card, folder / "photos", hasher.model_path) as index:
        index.update(hasher)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    shutil.copytree(made, folder)  # copies times as well: the pictures are those that were hashed
    with HashIndex.open(folder / "photos.db") as index:
        index.move_root(folder / "photos")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("QUERYOPT_MODEL", raising=False)
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [os.fsdecode(a) for a in arguments])


def rows(output):
    """The tables' rows as lists of words."""
    return [line.split() for line in output.splitlines() if line.split() and line.split()[0].isdigit()]


def test_a_table_shows_rank_distance_label_bits_and_path(here):
    done = run("photos/finch/1.jpg", "-k", "3")
    assert done.exit_code == 0, done.output
    assert "index: " in done.stderr
    assert "model: " not in done.stderr  # not needed: the code is stored
    assert done.stdout.splitlines()[0] == "photos/finch/1.jpg  finch  0x018c (stored)  rank margin"
    first, *others = rows(done.stdout)
    assert first == ["1", "0", "finch", "photos/finch/1.jpg"]
    assert [row[0] for row in others] == ["2", "3"]
    for _, distance, label, *bits, path in others:
        assert path.startswith(f"photos/{label}/")
        assert len(bits) == int(distance) > 0
        assert all(bit[0] in "+-" and 0 <= int(bit[1:]) < 12 for bit in bits)


def test_the_signs_of_bits_say_which_side_has_them(here):
    # 0x018c has bits 2, 3, 7, 8; 0x050c has 2, 3, 8, 10.
    done = run("photos/finch/1.jpg", "-k", "8")
    row = next(row for row in rows(done.stdout) if row[-1] == "photos/finch/2.jpg")
    assert row[3:-1] == ["-7", "+10"]


def test_a_new_picture_is_hashed_with_the_model_of_the_index(here, tmp_path):
    shutil.copy(DATA / "pictures" / "heron" / "4.png", tmp_path / "new.png")
    done = run(tmp_path / "new.png", "--index", "photos.db", "-k", "1", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert f"model: {MODEL}" in done.stderr
    assert rows(done.stdout) == [["1", "0", "heron", "photos/heron/4.png"]]


def test_piped_lines_are_never_wrapped_or_cut(here):
    long = "photos/" + "a-long-name-" * 18 + ".jpg"
    shutil.copy("photos/finch/1.jpg", long)
    with HashIndex.open("photos.db") as index:
        index.update(Hasher(MODEL, threads=1))
    command = [sys.executable, "-c", "from queryopt.runtime.cli.search import main; main()", "photos/finch/1.jpg", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.split() and line.split()[0] == "2"] == [long]


def test_radius_k_and_exclude_self(here):
    done = run("photos/finch/1.jpg", "--radius", "2", "--exclude-self")
    assert [row[1] for row in rows(done.stdout)] == ["2"]
    done = run("photos/finch/1.jpg", "--radius", "0", "--exclude-self")
    assert "no hits" in done.stdout
    done = run("photos/finch/1.jpg", "--radius", "12", "-k", "4")
    assert len(rows(done.stdout)) == 4
    done = run("photos/finch/1.jpg", "--radius", "12")
    assert len(rows(done.stdout)) == 8


@pytest.mark.parametrize("rank", ["weighted", "tiebreak"])
def test_a_ranked_search_shows_scores(here, rank):
    done = run("photos/finch/1.jpg", "--rank", rank, "--html", "hits.html")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].split() == ["rank", "distance", "score", "label", "bits", "path"]
    found = [(int(distance), int(score)) for _, distance, score, *_ in rows(done.stdout)]
    assert found[0] == (0, 0)
    assert len(set(found)) > 3
    assert found == sorted(found, key=lambda hit: hit[::-1] if rank == "weighted" else hit)
    page = Path("hits.html").read_text()
    assert f"the first 10, ranked {rank}" in page
    assert f"{found[-1][0]} bits, score {found[-1][1]:,}" in page
    again = run("photos/finch/1.jpg", "--rank", rank, "--json")
    assert [(hit["distance"], hit["score"]) for hit in json.loads(again.stdout)["results"][0]["hits"]] == found


def test_which_order_it_is_is_said(here):
    for given, said, words in (
        ([], "margin", "the 10 nearest, equal distances by margins"),
        (["--rank", "id"], "id", "the 10 nearest, equal distances by id"),
        (["--rank", "hamming"], "id", "the 10 nearest, equal distances by id"),
    ):
        [found] = json.loads(run("photos/finch/1.jpg", *given, "--json").stdout)["results"]
        assert found["rank"] == said
        assert {hit["score"] for hit in found["hits"]} == {None}
        done = run("photos/finch/1.jpg", *given, "--html", "hits.html")
        assert done.stdout.splitlines()[0].endswith(f"(stored)  rank {said}")
        assert words in Path("hits.html").read_text()
    wrong = run("photos/finch/1.jpg", "--rank", "best")
    assert (wrong.exit_code, "'best' is not one of 'margin', 'id', 'weighted', 'tiebreak'" in wrong.stderr) == (2, True)


def test_json_is_alone_on_stdout_and_has_everything(here):
    done = run("photos/finch", "--json", "-k", "2")
    assert done.exit_code == 0
    value = json.loads(done.stdout)
    assert (value["queries"], value["hits"], value["failed"]) == (4, 8, {})
    first = value["results"][0]
    assert first["query"] == "photos/finch/1.jpg"
    assert (first["label"], first["code"], first["stored"]) == ("finch", "0x018c", True)
    assert first["hits"][0]["path"] == str(here / "photos" / "finch" / "1.jpg")
    assert first["hits"][1]["score"] is None
    assert first["hits"][1]["distance"] == len(first["hits"][1]["differs"])
    assert all(query != hit for query, hit in first["hits"][1]["differs"].values())


def test_a_folder_of_queries_gives_a_line_of_json_each(here):
    (here / "photos" / "heron" / "bad.jpg").write_text("no picture")
    done = run("photos", "--out", "hits.jsonl", "-k", "1")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "photos/heron/bad.jpg: " in done.stderr
    lines = [json.loads(line) for line in Path("hits.jsonl").read_text().splitlines()]
    assert [line["query"].rpartition("/")[2] for line in lines] == [
        *("1.jpg", "2.jpg", "3.jpg", "4.png"),
        *("1.jpg", "2.jpg", "3.jpg", "4.png", "bad.jpg"),
    ]
    assert all(line["hits"][0]["distance"] == 0 for line in lines[:-1])
    assert set(lines[-1]) == {"query", "error"}


def test_lines_to_stdout_are_all_there_is(here):
    done = run("photos/finch", "--out", "-", "-k", "1")
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["finch"] * 4
    assert not Path("-").exists()
    assert run("photos/finch", "--out", "-", "--json").exit_code == 2


def test_names_with_line_breaks_and_foreign_bytes(here):
    name = b"photos/heron/a\nb\xff<i>.jpg"
    shutil.copy("photos/heron/1.jpg", name)
    done = run(name, "--out", "hits.jsonl", "--html", "hits.html", "-k", "1")
    assert done.exit_code == 0, done.output
    [line] = Path("hits.jsonl").read_text().splitlines()
    assert json.loads(line)["query"] == "photos/heron/a\\nb\\udcff<i>.jpg"
    assert "a\\nb\\udcff&lt;i&gt;.<wbr>jpg" in Path("hits.html").read_text()
    assert run(name).stdout.splitlines()[0].startswith("photos/heron/a\\nb\\udcff<i>.jpg  0x")


def test_a_label_of_foreign_bytes(here):
    folder = b"photos/caf\xe9"
    os.mkdir(folder)
    shutil.copy("photos/heron/1.jpg", folder + b"/1.jpg")
    with HashIndex.open("photos.db") as index:
        index.update(Hasher(MODEL, threads=1))
    assert run(folder, "--out", "hits.jsonl", "--html", "hits.html", "-k", "9").exit_code == 0
    line = json.loads(Path("hits.jsonl").read_text())
    assert line["label"] == "caf\\udce9"
    assert {hit["label"] for hit in line["hits"]} == {"finch", "heron", "caf\\udce9"}
    assert json.loads(run(folder, "--json", "-k", "9").stdout)["results"] == [line]
    assert "photos/caf\\udce9/1.jpg  caf\\udce9  0x" in run(folder).stdout


def on_a_terminal(command):
    """The exit code of a shell's command, and the lines that are left on the terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(["bash", "-c", command], stdout=follower, stderr=follower) as process:
        os.close(follower)
        seen = b""
        with contextlib.suppress(OSError):  # Linux says EIO where the other end is closed
            while chunk := os.read(leader, 4096):
                seen += chunk
    os.close(leader)
    lines = seen.decode().split("\r\n")
    # ESC [2K clears what the line had so far.
    return process.returncode, [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]|\r", "", line.rsplit("\x1b[2K")[-1]) for line in lines]


@pytest.mark.parametrize("out", ["hits.jsonl", "- >hits.jsonl", "-"])
def test_on_a_terminal_every_line_is_whole(here, out):
    """What is said does not begin on the line of the bar, and no bar is drawn among results."""
    Path("photos/heron/bad.jpg").write_text("no picture")
    shutil.copy("photos/heron/1.jpg", "photos/new.jpg")  # so that the model is opened, which is said
    program = "from queryopt.runtime.cli.search import main; main()"
    code, lines = on_a_terminal(f'"{sys.executable}" -c "{program}" photos -k 1 --out {out}')
    assert code == 1
    assert "warning: photos/heron/bad.jpg: not a picture that can be read (text)" in lines
    assert f"model: {MODEL}" in lines
    assert any("10/10" in line for line in lines) == (out != "-")
    results = lines if out == "-" else Path("hits.jsonl").read_text().splitlines()
    assert [len(json.loads(line)) for line in results if line.startswith("{")] == [8] * 4 + [8] * 4 + [2, 8]


def test_a_page_is_written_beside_the_table(here):
    done = run("photos/finch/1.jpg", "photos/heron/1.jpg", "-k", "3", "--html", "hits.html")
    assert done.exit_code == 0
    assert "page: hits.html" in done.stderr
    assert len(rows(done.stdout)) == 6
    page = Path("hits.html").read_text()
    assert page.count('class="card"') == 6
    assert page.count("<img ") == 8
    assert page.endswith("</html>\n")
    assert "the 3 nearest" in page
    assert "photos.db, 8 pictures" in page


def test_a_vanished_gallery_file_is_listed_and_marked(here):
    os.remove("photos/finch/1.jpg")
    done = run("photos/finch/2.jpg", "-k", "8", "--html", "hits.html")
    assert done.exit_code == 0
    [line] = [line for line in done.stdout.splitlines() if "photos/finch/1.jpg" in line]
    assert line.rstrip().endswith("(gone)")
    assert "file not found" in Path("hits.html").read_text()


def test_unreadable_queries_are_named_and_leave_old_results(here):
    Path("hits.html").write_text("<!doctype html>old")
    done = run("photos/none.jpg", "--html", "hits.html", "--out", "hits.jsonl")
    assert done.exit_code == 3
    assert "warning: photos/none.jpg: " in done.stderr
    assert "none of the queries could be read" in done.stderr
    assert Path("hits.html").read_text() == "<!doctype html>old"
    assert not Path("hits.jsonl").exists()
    assert run("photos/none.jpg", "photos/finch/1.jpg").exit_code == 1


@pytest.mark.parametrize(
    ("option", "name", "result"),
    [
        ("--html", "photos.db", "results"),
        ("--html", "photos/finch/1.jpg", "results"),
        ("--html", "model.onnx", "results"),
        ("--out", "notes", "results"),
        ("--out", "notes.jsonl", "results.ndjson"),
        ("--out", "notes.csv", "results.csv"),
    ],
)
def test_nothing_but_old_results_is_ever_overwritten(here, option, name, result):
    shutil.copy(MODEL, "model.onnx")
    if name.startswith("notes"):
        Path(name).write_text("query,what I saw\n")
    before = Path(name).read_bytes()
    done = run("photos/finch/2.jpg", option, name)
    assert done.exit_code == 2
    assert f"{name}: the file there is none that this command wrote" in done.stderr
    assert Path(name).read_bytes() == before
    for _ in range(2):
        assert run("photos/finch/2.jpg", option, result).exit_code == 0


@pytest.mark.parametrize("name", ["photos.db", "hits.xlsx", "hits.tsv", "hits.html"])
def test_endings_of_other_formats_are_refused_before_anything_is_done(here, name):
    done = run("photos/finch/2.jpg", "--out", name)
    assert (done.exit_code, done.stdout) == (2, "")
    assert (
        f"{name}: the ending says the format: .jsonl, .ndjson, .json or none for a line of JSON a query" in done.stderr
    )
    assert "and .csv for a row a hit" in done.stderr
    assert "index: " not in done.stderr


def test_pictures_as_near_as_the_last_hit_are_counted(here):
    for number in range(5):
        shutil.copy("photos/finch/1.jpg", f"photos/copy{number}.jpg")
    with HashIndex.open("photos.db") as index:
        index.update(Hasher(MODEL, threads=1))
    done = run("photos/finch/1.jpg", "-k", "2", "--html", "hits.html")
    assert done.stdout.splitlines()[-2:] == [
        "and 4 more at distance 0: with the very same code, nearest margins first",
        "",
    ]
    assert "2 hits, 0 bits away; 4 more as near as the last" in Path("hits.html").read_text()
    far = run("photos/heron/1.jpg", "-k", "8", "--json")
    [asked] = json.loads(far.stdout)["results"]
    distances = {hit["path"]: hit["distance"] for hit in asked["hits"]}
    table = run("photos/heron/1.jpg", "-k", "8").stdout
    [whole] = json.loads(run("photos/heron/1.jpg", "-k", "13", "--json").stdout)["results"]
    last = asked["hits"][-1]["distance"]
    assert asked["ties"] == sum(h["distance"] == last and h["path"] not in distances for h in whole["hits"]) > 0
    assert f"and {asked['ties']} more at distance {last}: equal distances are nearest margins first" in table
    table = run("photos/heron/1.jpg", "-k", "8", "--rank", "id").stdout
    assert f"and {asked['ties']} more at distance {last}: equal distances are in the order of ids (--rank mar" in table
    assert whole["ties"] == 0
    assert "more at distance" not in run("photos/finch/1.jpg", "-k", "6").stdout
    ranked = json.loads(run("photos/finch/1.jpg", "-k", "2", "--rank", "tiebreak", "--json").stdout)
    assert ranked["results"][0]["ties"] is None


def test_a_query_without_permission_does_not_keep_the_others_from_being_searched(here, monkeypatch):
    Path("photos/finch/1.jpg").chmod(0)
    access = os.access  # to root, which may read it all the same, let the system say what it says to others
    monkeypatch.setattr(os, "access", lambda path, *mode: b"1.jpg" not in os.fsencode(path) and access(path, *mode))
    done = run("photos/finch/1.jpg", "photos/finch/2.jpg", "-k", "1")
    assert done.exit_code == 0, done.output  # the code is stored
    assert done.stdout.count("(stored)") == 2


def test_the_index_is_found_or_the_choice_is_named(here):
    os.rename("photos.db", "birds.db")
    assert run("photos/finch/1.jpg").exit_code == 0
    shutil.copy("birds.db", "other.db")
    done = run("photos/finch/1.jpg")
    assert done.exit_code == 2
    assert "birds.db, other.db" in done.stderr
    os.remove("birds.db")
    os.remove("other.db")
    done = run("photos/finch/1.jpg")
    assert done.exit_code == 3
    assert "--index" in done.stderr
    assert run("photos/finch/1.jpg", "--index", "none.db").exit_code == 3


def test_a_model_that_is_not_the_indexs_is_refused(here, tmp_path):
    import onnx

    model = onnx.load(MODEL)
    card = next(entry for entry in model.metadata_props if entry.key == "queryopt.card")
    values = json.loads(card.value) | {"fingerprint": "ab" * 32}
    card.value = json.dumps(values)
    onnx.save(model, tmp_path / "other.onnx")
    shutil.copy("photos/finch/1.jpg", "new.jpg")
    done = run("new.jpg", "--model", tmp_path / "other.onnx", "--threads", "1")
    assert done.exit_code == 2
    assert "other.onnx" in done.stderr
    assert "another model" in done.stderr
    assert ModelCard.from_json(card.value, "test").fingerprint[:12] in done.stderr


def test_a_model_that_moved_is_looked_for(here, monkeypatch):
    with HashIndex.open("photos.db") as index:
        card = index.card
    os.remove("photos.db")
    with HashIndex.create("photos.db", card, "photos", "gone.onnx") as index:
        assert len(index) == 0
    done = run("photos/finch/1.jpg", "--threads", "1")
    assert done.exit_code != 0
    assert "gone.onnx, the model of the index, is gone" in done.stderr
    monkeypatch.setenv("QUERYOPT_MODEL", str(MODEL))
    done = run("photos/finch/1.jpg", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert "no hits" in done.stdout


def test_a_folder_without_pictures_and_no_query_at_all(here):
    Path("empty").mkdir()
    done = run("empty")
    assert done.exit_code == 3
    assert "empty: there are no pictures" in done.stderr
    assert run().exit_code == 2


def test_a_page_of_very_many_queries_is_cut_with_a_note(here, monkeypatch):
    monkeypatch.setattr("queryopt.runtime.cli.search._PAGE_QUERIES", 3)
    assert run("photos", "--html", "hits.html", "--out", "hits.jsonl", "-k", "2").exit_code == 0
    page = Path("hits.html").read_text()
    assert page.count('class="card"') == 6
    assert "5 more queries are not shown." in page


def test_a_reader_that_goes_away_is_no_error(here):
    command = [sys.executable, "-c", "from queryopt.runtime.cli.search import main; main()"]
    command += ["photos/finch/1.jpg"] * 2000 + ["-q", "--out", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["label"] == "finch"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_help_has_an_example_and_is_quick_to_import():
    done = run("--help")
    assert "qo-search bird.jpg photos.db -k 10 --html hits.html" in done.stdout
    heavy = "{'PIL', 'onnxruntime', 'rich', 'sqlite3'}"
    code = f"import sys, queryopt.runtime.cli.search; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
