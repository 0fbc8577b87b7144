"""What an index's searches run on: a scan at first, a structure when it pays, and changes without building anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.blocks import BLOCK_IDS
from queryopt.runtime.index.searcher import WORTH_BUILDING

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
