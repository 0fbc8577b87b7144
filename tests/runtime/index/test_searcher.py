"""What an index's searches run on: a scan at first, a structure when it pays, and changes without building anew."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from queryopt.errors import IndexFileError, MismatchError, UsageError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.blocks import BLOCK_IDS
from queryopt.runtime.index.rows import encode_margins
from queryopt.runtime.index.searcher import WORTH_BUILDING
from queryopt.runtime.search import RadiusResult, SearchResult

Fill = Callable[..., list[int]]
COUNT = 5 * BLOCK_IDS + 100


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, make_card: Any, fill: Fill) -> Path:
    folder = tmp_path_factory.mktemp("large")
    (folder / "photos").mkdir()
    with HashIndex.create(folder / "photos.db", make_card(48), folder / "photos") as index:
        fill(index, [f"{i}.jpg" for i in range(COUNT)])
    return folder / "photos.db"


@pytest.mark.usefixtures("native_core")
def test_a_structure_is_built_when_it_pays(large: Path, random_codes: Any) -> None:
    queries = np.concatenate([random_codes(5, 48)[0], random_codes(5, 48, seed=9)[0]])
    with HashIndex.open(large, readonly=True) as index:
        first = index.search(queries, 7)
        assert index._searcher._index is not None
        assert index._searcher._index.structure == "scan"
        index.search(np.repeat(queries, WORTH_BUILDING // 10, axis=0), 1)
        assert index._searcher._index.structure == "multi-index"
        again = index.search(queries, 7)
        np.testing.assert_array_equal(first.ids, again.ids)
        np.testing.assert_array_equal(first.distances, again.distances)


@pytest.mark.usefixtures("native_core")
def test_prepare_builds_it_at_once_and_says_what_it_is(large: Path) -> None:
    with HashIndex.open(large, readonly=True) as index:
        made = index.prepare()
        assert (made.structure, made.codes, made.bits) == ("multi-index", COUNT, 48)


@pytest.mark.parametrize("prepared", [False, True])
def test_changes_by_this_and_another_are_found(large: Path, random_codes: Any, fill: Fill, prepared: bool) -> None:
    codes, _ = random_codes(COUNT, 48)
    known = codes[[10, BLOCK_IDS + 5]]
    with HashIndex.open(large) as index, HashIndex.open(large) as other:
        index.search(known, 1)
        if prepared:
            index.prepare()
        searcher = index._searcher._index
        start = len(index)
        for changed_by in (index, other):
            name = f"new {prepared} {changed_by is index}.jpg"
            (id,) = fill(changed_by, [name], seed=77)
            new = random_codes(1, 48, seed=77)[0]
            assert index.search(new, 1).ids.tolist() == [[id]]
            assert index.search(known, 1).ids.ravel().tolist() == [11, BLOCK_IDS + 6]
            changed_by.remove([id])
            assert index.search(new, 1).distances[0, 0] > 0
            assert index.search_radius(new, 0).ids.size == 0
        assert len(index) == start
        # Brought up to date, not read anew.
        assert index._searcher._index is searcher


def test_filters(large: Path, random_codes: Any) -> None:
    codes, _ = random_codes(3, 48)
    with HashIndex.open(large, readonly=True) as index:
        assert index.search(codes, 1).ids.ravel().tolist() == [1, 2, 3]
        assert index.search(codes, 1, allow=[2]).ids.ravel().tolist() == [2, 2, 2]
        assert 1 not in index.search(codes, 5, deny=[1]).ids
        assert index.search_radius(codes, 0, deny=[1, 3]).ids.tolist() == [2]


def by_margins(index: HashIndex, margins: npt.NDArray[np.int8]) -> list[tuple[int, int, int]]:
    """All (distance, squared distance of the margins, id), by the definition."""
    own = margins.astype(int)
    return sorted(
        (int(((image.margins > 0) != (own > 0)).sum()), int(((image.margins - own) ** 2).sum()), image.id)
        for image in index
    )


def hits(result: SearchResult | RadiusResult, query: int) -> list[tuple[int, int, int]]:
    row = slice(*result.offsets[query : query + 2]) if isinstance(result, RadiusResult) else query
    assert result.scores is not None
    return list(zip(*(array[row].tolist() for array in (result.distances, result.scores, result.ids)), strict=True))


@pytest.fixture
def tied(tmp_path: Path, make_card: Any, fill: Fill) -> Iterator[HashIndex]:
    """700 images with codes of 5 bits, the last 100 of them with the rows of the first."""
    (tmp_path / "photos").mkdir()
    with HashIndex.create(tmp_path / "photos.db", make_card(5), tmp_path / "photos") as index:
        fill(index, [f"{i}.jpg" for i in range(600)])
        fill(index, [f"again {i}.jpg" for i in range(100)])
        yield index


@pytest.mark.parametrize("prepared", [False, True])
def test_equal_distances_are_ordered_by_margins(tied: HashIndex, random_codes: Any, prepared: bool) -> None:
    codes, logits = random_codes(6, 5, seed=4)
    codes, logits = np.concatenate([random_codes(1, 5)[0], codes]), np.concatenate([random_codes(1, 5)[1], logits])
    margins = encode_margins(codes, logits, 5, tied.card.logit_scale)
    if prepared:
        tied.prepare()
    expected = [by_margins(tied, own) for own in margins]
    assert expected[0][:2] == [(0, 0, 1), (0, 0, 601)]
    for k in (1, 30, 702):
        found = tied.search(codes, k, logits=logits)
        assert [hits(found, i) for i in range(7)] == [(one + [(6, -1, -1)] * k)[:k] for one in expected]
        again = tied.search(codes, k, margins=margins, rank="margin")
        np.testing.assert_array_equal(found.ids, again.ids)
    near = tied.search_radius(codes, 1, logits=logits)
    assert [hits(near, i) for i in range(7)] == [[hit for hit in one if hit[0] <= 1] for one in expected]
    some = np.arange(1, 701, 2)
    found = tied.search(codes, 9, logits=logits, allow=some, deny=[1])
    assert hits(found, 0) == [hit for hit in expected[0] if hit[2] % 2 == 1 and hit[2] > 1][:9]
    # Without logits, and where it is asked for, ids decide.
    for found in (tied.search(codes, 30), tied.search(codes, 30, logits=logits, rank="id")):
        assert found.scores is None
        assert found.ids[0].tolist() == [id for _, id in sorted((hit[0], hit[2]) for hit in expected[0])[:30]]
    assert tied.search(codes, 1, logits=logits, rank="hamming").ids[0].tolist() == [1]


def test_margins_follow_changes_by_this_and_another(tied: HashIndex, random_codes: Any, fill: Fill) -> None:
    codes, logits = random_codes(2, 5, seed=4)
    margins = encode_margins(codes, logits, 5, tied.card.logit_scale)

    def check() -> None:
        found = tied.search(codes, 40, logits=logits)
        assert [hits(found, i) for i in range(2)] == [by_margins(tied, own)[:40] for own in margins]

    with HashIndex.open(tied.path) as other:
        for changed_by in (tied, other):
            check()
            changed_by.remove(tied.search(codes, 3, logits=logits).ids[0])
            check()
            fill(changed_by, [f"{i}.jpg" for i in range(300, 340)], seed=9)  # other codes under the same ids
            check()
            fill(changed_by, [f"{changed_by is other} {i}.jpg" for i in range(50)], seed=4)
            check()


def test_codes_and_margins_are_of_one_state_while_another_changes_them(tied: HashIndex, random_codes: Any) -> None:
    """All margins are as large, so that a hit's score says how far the margins' bits are from the query's."""
    codes, logits = random_codes(4, 5, seed=4)
    signs = np.where(logits >= 0, 2.4, -2.4).astype(np.float32)
    names, stop = [f"{i}.jpg" for i in range(150)], threading.Event()
    tied.remove(range(151, 701))

    def change(seed: int) -> None:
        rows = np.random.default_rng(seed).permutation(len(names)) % 4
        other.add(names, codes[rows], signs[rows])

    def change_all_the_while() -> None:
        for seed in itertools.count():
            if stop.is_set():
                break
            change(seed)

    with HashIndex.open(tied.path) as other:
        change(0)
        thread = threading.Thread(target=change_all_the_while)
        thread.start()
        try:
            for _ in range(60):
                found = tied.search(codes, 20, logits=signs)
                assert found.scores is not None
                np.testing.assert_array_equal(found.scores, found.distances * 244**2)
        finally:
            stop.set()
            thread.join()


def test_what_does_not_belong_together_is_refused(tied: HashIndex, random_codes: Any) -> None:
    codes, logits = random_codes(2, 5)
    with pytest.raises(UsageError, match="rank 'margin' needs the queries' logits or margins"):
        tied.search(codes, 1, rank="margin")
    with pytest.raises(UsageError, match="rank is 'best': it is one of margin, id, weighted, tiebreak"):
        tied.search(codes, 1, rank="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="both logits and margins are given"):
        tied.search_radius(codes, 1, logits=logits, margins=np.ones((2, 5), np.int8))
    with pytest.raises(UsageError, match=r"logits are float32 \[1, 5\]: 2 codes need"):
        tied.search(codes, 1, logits=logits[:1])
    with pytest.raises(MismatchError, match="codes and logits don't belong together"):
        tied.search(codes, 1, logits=-logits)
    with pytest.raises(UsageError, match=r"margins are int64 \[2, 5\]: 2 codes need int8"):
        tied.search(codes, 1, margins=np.ones((2, 5), np.int64))
    tied.search(codes, 700, logits=logits)


def test_a_row_without_its_margins_is_named(tied: HashIndex, random_codes: Any) -> None:
    codes, logits = random_codes(1, 5)
    with sqlite3.connect(tied.path) as connection:
        connection.execute("UPDATE images SET margins = ? WHERE id = 601", (bytes(5),))
    with pytest.raises(IndexFileError, match="the row of image 601 is damaged: qo-index verify names"):
        tied.search(codes, 1, logits=logits)
    assert tied.search(codes, 1).ids.tolist() == [[1]]
    with sqlite3.connect(tied.path) as connection:
        connection.execute("DELETE FROM images WHERE id = 601")
    with pytest.raises(IndexFileError, match="the row of image 601 is missing: qo-index verify names"):
        tied.search(codes, 1, logits=logits)
