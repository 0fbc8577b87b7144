import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from queryopt.bench.cli.bench import main
from queryopt.bench.speed.search.contender import Hits
from queryopt.bench.speed.search.peers.ours import Ours

INDEX = Path(__file__).parents[2] / "data" / "v1" / "index.db"
QUICK = ["--n", 3000, "--queries", 20, "--rounds", 2, "--seconds", 1]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["search", *(str(argument) for argument in arguments)])


def values(*arguments: Any) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_structures_and_peers_side_by_side() -> None:
    report = values(*QUICK, "--n", "1e3,3e3", "--bits", "12,48", "--structures", "auto,scan", "--peers", "faiss,numpy")
    assert [(group["bits"], group["data"]) for group in report["groups"]] == [
        (bits, "clustered, 1,000 classes, flip 0.05") for bits in (12, 48)
    ]
    for group in report["groups"]:
        rows = {(row["searcher"], row["n"]): row for row in group["rows"]}
        names = ("queryopt auto", "queryopt scan", "faiss", "numpy")
        assert set(rows) == {(name, n) for name in names for n in (1000, 3000)}
        for (name, n), row in rows.items():
            assert row["correct"]
            assert row["verdict"]["recall"] == 1
            assert row["fastest"] <= row["p50"] <= row["p95"] <= row["p99"] <= row["slowest"]
            assert row["ratio"] == pytest.approx(rows["faiss", n]["p50"] / row["p50"])
            assert row["answered"] == 20
            assert row["hits"] == 10
            assert len(row["round_medians"]) == 2
            assert row["nbytes"] > 0, name
        scan = rows["queryopt scan", 3000]
        auto, small, large = rows["queryopt auto", 3000], rows["faiss", 1000], rows["faiss", 3000]
        assert group["p95_to_scan"]["queryopt auto"]["3000"] == {
            "wall": auto["p95"] / scan["p95"],
            "cpu": auto["cpu_p95"] / scan["cpu_p95"],
        }
        assert group["growth"]["faiss"] == {
            "wall": large["p50"] / small["p50"],
            "cpu": large["cpu_p50"] / small["cpu_p50"],
        }
    assert set(report["versions"]) == {"queryopt", "faiss", "numpy"}
    assert report["one_thread"]["faiss"] == "faiss.omp_set_num_threads(1)"
    assert report["machine"]
    assert report["date"].endswith("UTC")


def test_the_tables_fit_and_say_what_was_measured() -> None:
    data = ["--data", "zipf", "--classes", 12345, "--flip", 0.15, "--far", "--batch", 20]
    searchers = ["--structures", "multi-index,scan", "--peers", "faiss"]
    done = run(*QUICK, *data, *searchers, "--rounds", 1, "--measure", "queries,build")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for text in (
        "48 bits, zipf, 12,345 classes, flip 0.15, queries far from all codes",
        "k = 10, 20 queries a call; µs a query",
        "x faiss",
        "G pairs/s",
        "queryopt multi-index at 3e3: its p95 is",
        "peak / result",
        "faiss: faiss.omp_set_num_threads(1)",
    ):
        assert text in done.stdout, text
    assert sum("ordered" in line for line in lines) >= 2


def test_within_a_radius() -> None:
    report = values(*QUICK, "--radius", 3, "--peers", "faiss,usearch", "--flip", 0.02)
    (group,) = report["groups"]
    assert group["task"] == {"k": None, "radius": 3, "batch": 1}
    assert {row["searcher"] for row in group["rows"]} == {"queryopt auto", "faiss"}
    assert all(row["correct"] and row["hits"] > 0 for row in group["rows"])
    assert report["skipped"]["usearch"]


def test_a_peer_that_is_not_installed_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    done = run(*QUICK, "--peers", "faiss,numpy")
    assert done.exit_code == 0
    assert "skipped: faiss: not installed: install queryopt's extra [bench]" in done.stdout
    assert done.output.count("faiss: not installed") == done.output.count("faiss") == 1  # nor has it an empty column
    report = values(*QUICK, "--peers", "faiss,numpy")
    assert all(row["ratio"] is None for row in report["groups"][0]["rows"])


def test_an_index_and_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.random.default_rng(0).integers(0, 256, (200, 3), np.uint8))
    report = values("--data", f"{tmp_path / 'codes.npy'},{INDEX}", "--peers", "faiss", "--rounds", 1)
    assert [group["bits"] for group in report["groups"]] == [24, 12]
    assert report["groups"][0]["rows"][0]["n"] == 180
    assert all(row["correct"] for group in report["groups"] for row in group["rows"])


def test_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "latency.png"
    done = run(*QUICK, "--n", "1e3,2e3", "--data", "clustered,uniform", "--peers", "faiss", "--png", picture)
    assert done.exit_code == 0, done.output
    with Image.open(picture) as file:
        image = file.convert("RGB")
    colours = {colour for count, colour in image.getcolors(1 << 20) or [] if count > 100}
    assert {(0xC6, 0x54, 0x3C), (0x33, 0x60, 0x8C)} <= colours  # a line of queryopt's and one of FAISS's


def test_the_command_as_a_process() -> None:
    report = values(*QUICK, "--n", 500, "--bits", 12, "--measure", "process")
    (timing,) = report["processes"]
    assert (timing["n"], timing["bits"], timing["hits"]) == (500, 12, 10)
    assert len(timing["seconds"]) == 2
    assert report["groups"] == []


def test_a_wrong_result_of_ours_is_said_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Ours.hits
    monkeypatch.setattr(Ours, "hits", lambda self, found: [Hits(h.ids, h.distances + 1) for h in right(self, found)])
    done = run(*QUICK, "--peers", "faiss")
    assert done.exit_code == 1
    assert "not those of an exact search" in done.stderr
    assert "NO" in done.stdout
    report = json.loads(run(*QUICK, "--peers", "faiss", "--structures", "auto,scan", "--json").stdout)
    # What is wrong with queryopt is not taken for what is wrong with a peer.
    exact = {row["searcher"]: row["verdict"]["exact"] for row in report["groups"][0]["rows"]}
    assert exact == {"queryopt auto": False, "queryopt scan": False, "faiss": True}


def test_how_many_results_were_checked() -> None:
    report = values(*QUICK, "--queries", 50, "--structures", "auto,scan", "--peers", "faiss")
    checked = {row["searcher"]: row["verdict"]["checked"] for row in report["groups"][0]["rows"]}
    # The first structure against the plain search, all others against that and the first structure.
    assert checked == {"queryopt auto": 20, "queryopt scan": 50, "faiss": 50}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--k", 3, "--radius", 2], 2, "one of them"),
        (["--n", "1e7x"], 2, "1e6,1e7"),
        (["--n", "1.5"], 2, "1e6,1e7"),
        (["--bits", 65], 2, "1 to 64"),
        (["--peers", "fais"], 2, "faiss"),
        (["--structures", "tree"], 2, "multi-index"),
        (["--structures", "none", "--peers", "none"], 2, "nobody"),
        (["--measure", "speed"], 2, "process"),
        (["--measure", "build", "--png", "a.png"], 2, "--measure queries"),
        (["--png", "none/a.png"], 2, "no folder"),
        (["--data", "clusterd"], 2, "clusterd"),
        (["--data", "none.npz"], 3, "no such file"),
        (["--flip", 0.7], 2, "0.5"),
        (["--data", str(INDEX), "--measure", "process"], 2, "generated data"),
    ],
)
def test_errors(arguments: list[Any], code: int, says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert says in done.stderr


def test_the_commands_of_the_documentation_exist() -> None:
    page = (Path(__file__).parents[3] / "docs" / "search-benchmark.md").read_text()
    commands = re.findall(r"\| `(--n [^`]*)` \|", page)
    assert len(commands) >= 10
    for command in commands:
        # With --help last, everything before it is parsed, and nothing runs.
        done = run(*command.split(), "--help")
        assert done.exit_code == 0, done.output


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("--png", "a.png")
    assert done.exit_code == 4
    assert "pip install '.[bench]'" in done.stderr
