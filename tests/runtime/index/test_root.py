"""Moving the root of an index: a look at a sample of its files comes first."""

from collections.abc import Callable
from pathlib import Path

import pytest

from queryopt.errors import InputError
from queryopt.runtime.index import HashIndex, RootReport
from queryopt.runtime.index import root as module


def test_of_many_images_some_from_all_over_the_ids_are_looked_for(
    index: HashIndex, tmp_path: Path, fill: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(index, [f"{number:03d}" for number in range(100)])
    index.remove(range(1, 41))
    monkeypatch.setattr(module, "_SAMPLE", 50)
    looked = list(module._sample(index._store))
    assert looked == sorted(set(looked))
    assert (looked[0], looked[-1]) == (b"040", b"098")
    assert len(looked) > 30
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match=rf"none of .* {len(looked)} of 60, the first of them '040'"):
        index.move_root(other)
    for path in looked[::2]:
        (other / path.decode()).symlink_to("a link may lead nowhere for now")
    assert index.move_root(other) == RootReport(len(looked[::2]), len(looked), 60)
    assert index.root == other


def test_an_index_without_images_may_be_moved_anywhere(index: HashIndex, tmp_path: Path) -> None:
    assert index.move_root(tmp_path) == RootReport(0, 0, 0)
