"""Every contender finds what the plain search finds: real peers, those of extra [bench] where they are installed."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from queryopt.bench.speed.search import contender as contenders
from queryopt.bench.speed.search.check import judge, plain_search
from queryopt.bench.speed.search.contender import PEERS, Task, UnavailableError, contender_names, open_contender
from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.errors import UsageError
from queryopt.runtime.search.hamming import STRUCTURES

OURS = [f"queryopt:{structure}" for structure in STRUCTURES]
# The first ones come with the extras [dev] and [train].
HERE = ["faiss", "numpy", "torch", *(p for p in ("usearch", "duckdb") if importlib.util.find_spec(p))]


@pytest.mark.parametrize("bits", [1, 12, 32, 33, 48, 64])
@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("name", OURS + HERE)
def test_nearest(name: str, batch: int, bits: int) -> None:
    data = make_data(DataSpec("clustered", bits, 1500, queries=20, classes=10))
    for k in (7, 1600):
        task = Task(k, batch=batch)
        contender = open_contender(name, data.codes, bits, task)
        answers: dict[int, Any] = {}
        for start in range(0, len(data.queries), batch):
            found = contender.ask(contender.prepare(data.queries[start : start + batch]))
            answers |= dict(enumerate(contender.hits(found), start=start))
        right = {row: plain_search(data.codes, query, task) for row, query in enumerate(data.queries)}
        verdict = judge(answers, right, data.codes, data.queries)
        assert verdict.checked == 20
        assert verdict.exact
        assert verdict.recall == 1
        assert verdict.ordered or not contender.ordered
        contender.close()


@pytest.mark.parametrize("name", HERE)
def test_a_gallery_of_more_than_one_chunk(name: str) -> None:
    data = make_data(DataSpec("uniform", 48, 70_000, queries=8))
    contender = open_contender(name, data.codes, 48, Task(3, batch=8))
    answers = dict(enumerate(contender.hits(contender.ask(contender.prepare(data.queries)))))
    right = {row: plain_search(data.codes, query, contender.task) for row, query in enumerate(data.queries)}
    assert judge(answers, right, data.codes, data.queries).exact
    contender.close()


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("name", OURS + [name for name in HERE if name != "usearch"])
def test_within(name: str, batch: int) -> None:
    data = make_data(DataSpec("clustered", 48, 1500, queries=20, classes=10))
    contender = open_contender(name, data.codes, 48, Task(None, 3, batch))
    for start in range(0, len(data.queries), batch):
        queries = data.queries[start : start + batch]
        answers = dict(enumerate(contender.hits(contender.ask(contender.prepare(queries)))))
        right = {row: plain_search(data.codes, query, contender.task) for row, query in enumerate(queries)}
        verdict = judge(answers, right, data.codes, queries)
        assert verdict.exact
        assert verdict.ordered or not contender.ordered
    assert any(len(hits.ids) for hits in right.values())
    contender.close()


@pytest.mark.parametrize("name", ["faiss", "torch"])
def test_one_thread_while_it_lives(name: str) -> None:
    module = __import__(name)
    threads = module.omp_get_max_threads if name == "faiss" else module.get_num_threads
    before = threads()
    contender = open_contender(name, np.zeros((3, 6), np.uint8), 48, Task())
    assert threads() == 1
    contender.close()
    assert threads() == before


def test_names() -> None:
    assert contender_names(["auto", "scan"], ["faiss"]) == ["queryopt:auto", "queryopt:scan", "faiss"]
    assert PEERS[0] == "faiss"
    with pytest.raises(UsageError, match=r"no structure 'tree'.*multi-index"):
        contender_names(["tree"], [])
    with pytest.raises(UsageError, match=r"no peer 'fais'.*faiss"):
        contender_names([], ["fais"])


def test_why_one_cannot_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.zeros((3, 6), np.uint8)
    monkeypatch.setattr(contenders, "available_memory", lambda: 10)
    with pytest.raises(UnavailableError, match="3 codes need about"):
        open_contender("faiss", codes, 48, Task())
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UnavailableError, match=r"not installed: .*pip install '\.\[bench\]'"):
        open_contender("faiss", codes, 48, Task())


@pytest.mark.parametrize(
    "settings", [{"k": None}, {"radius": 1}, {"k": 0}, {"k": None, "radius": -1}, {"batch": 0}], ids=str
)
def test_what_is_no_task(settings: dict[str, int | None]) -> None:
    with pytest.raises(UsageError):
        Task(**settings)  # type: ignore[arg-type]
