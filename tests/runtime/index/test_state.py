"""An index beside a plain dictionary: whatever is done to both, they say the same.

`make fuzz` takes many more steps.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from queryopt.card import ModelCard, Preprocessing
from queryopt.codes import pack_codes, unpack_codes
from queryopt.errors import UsageError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.search import HammingIndex

from ...independent_reader import read_index

STEPS = int(os.environ.get("QUERYOPT_FUZZ_STEPS", "150"))
BITS = 10
CARD = ModelCard(BITS, Preprocessing(8, 8), "tiny", "fp32", logit_scale=2.0, fingerprint="0" * 64)

names = st.integers(0, 40).map(lambda number: f"class{number % 3}/{number}.jpg")
seeds = st.integers(0, 2**32 - 1)


def margins_of(seed: int, count: int = 1) -> npt.NDArray[np.int8]:
    """Of few different codes and margins, so that distances tie, and now and then both are equal."""
    rng = np.random.default_rng(seed)
    signs = np.where(rng.random((count, BITS)) < [[0.5] * 4 + [0.03] * 6], -1, 1)
    margins: npt.NDArray[np.int8] = (signs * rng.choice([1, 2, 100], (count, BITS))).astype(np.int8)
    return margins


def codes_of(margins: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    return pack_codes(margins > 0)


def logits_of(margins: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """Logits that are stored as these margins."""
    logits: npt.NDArray[np.float64] = (margins - 0.5 * np.sign(margins)) * (CARD.logit_scale / 127)
    return logits


class IndexAsDictionary(RuleBasedStateMachine):
    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="queryopt-state-"))
        self.root = self.folder / "photos"
        for number in range(3):
            (self.root / f"class{number}").mkdir(parents=True)
        self.index = HashIndex.create(self.folder / "a.db", CARD, self.root)
        self.reader = HashIndex.open(self.folder / "a.db", readonly=True)
        self.rows: dict[int, tuple[str, npt.NDArray[np.int8]]] = {}
        self.last_id = 0

    def teardown(self) -> None:
        self.reader.close()
        self.index.close()
        shutil.rmtree(self.folder)

    def _put(self, added: list[str], margins: npt.NDArray[np.int8]) -> list[int]:
        by_name = {name: id for id, (name, _) in self.rows.items()}
        ids = []
        for name, margin in zip(added, margins, strict=True):
            if name not in by_name:
                self.last_id += 1
                by_name[name] = self.last_id
            self.rows[by_name[name]] = (name, margin)
            ids.append(by_name[name])
        return ids

    @rule(added=st.lists(names, min_size=1, max_size=12, unique=True), seed=seeds)
    def add(self, added: list[str], seed: int) -> None:
        """New pictures, and known ones with other codes."""
        for name in added:
            (self.root / name).touch()
        margins = margins_of(seed, len(added))
        assert self.index.add(added, codes_of(margins), logits_of(margins)) == self._put(added, margins)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), by_path=st.booleans())
    def remove(self, data: st.DataObject, by_path: bool) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.rows)), min_size=1, max_size=5, unique=True))
        assert self.index.remove([self.rows[id][0] for id in ids] if by_path else ids) == len(ids)
        for id in ids:
            del self.rows[id]

    @rule()
    def remove_what_is_not_there(self) -> None:
        try:
            self.index.remove([*self.rows, self.last_id + 1])
        except UsageError:
            return
        raise AssertionError("an unknown id was removed")

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.rows)), max_size=3, unique=True))
        for id in gone:
            (self.root / self.rows[id][0]).unlink()
        assert self.index.prune(force=True) == len(gone)
        for id in gone:
            del self.rows[id]

    @rule(added=st.lists(names, min_size=1, max_size=8, unique=True), seed=seeds)
    def merge(self, added: list[str], seed: int) -> None:
        """Another index of the same folder, whose files are as old: what it knows alone is taken in."""
        margins = margins_of(seed, len(added))
        for name in added:
            (self.root / name).touch()
            os.utime(self.root / name, (0, 0))
        known = {name for name, _ in self.rows.values()}
        with HashIndex.create(self.folder / "b.db", CARD, self.root) as other:
            other.add(added, codes_of(margins), logits_of(margins))
            report = self.index.merge(other)
        (self.folder / "b.db").unlink()
        new = [i for i, name in enumerate(added) if name not in known]
        assert report.added == len(new)
        self._put([added[i] for i in new], margins[new])

    @rule()
    def close_and_open(self) -> None:
        self.index.close()
        _, images = read_index(self.folder / "a.db")
        assert {id: image["path"].decode() for id, image in images.items()} == {
            id: name for id, (name, _) in self.rows.items()
        }
        self.index = HashIndex.open(self.folder / "a.db")

    @rule(seed=seeds)
    def restore_a_backup(self, seed: int) -> None:
        """What was done after it is gone."""
        self.index.backup(self.folder / "kept.db")
        self.reader.close()
        self.index.close()
        os.replace(self.folder / "kept.db", self.folder / "a.db")
        self.index = HashIndex.open(self.folder / "a.db")
        self.reader = HashIndex.open(self.folder / "a.db", readonly=True)

    @rule(seed=seeds)
    def prepare(self, seed: int) -> None:
        self.reader.prepare()

    @rule(seed=seeds, k=st.integers(1, 60), rank=st.sampled_from(["margin", "id"]), own=st.booleans())
    def search(self, seed: int, k: int, rank: Any, own: bool) -> None:
        if own and self.rows:
            query = self.rows[sorted(self.rows)[seed % len(self.rows)]][1][None]
        else:
            query = margins_of(seed)
        expected = sorted(
            (
                int(np.count_nonzero((margins > 0) != (query[0] > 0))),
                int(np.square(margins.astype(int) - query[0]).sum()) if rank == "margin" else 0,
                id,
            )
            for id, (_, margins) in self.rows.items()
        )
        for index in (self.index, self.reader):
            found = index.search(codes_of(query), k, margins=query, rank=rank)
            hits = [(d, id) for d, id in zip(found.distances[0].tolist(), found.ids[0].tolist(), strict=True) if id > 0]
            assert hits == [(d, id) for d, _, id in expected[:k]]
            radius = k % (BITS + 1)
            near = index.search_radius(codes_of(query), radius, margins=query if rank == "margin" else None)
            assert near.ids.tolist() == [id for d, _, id in expected if d <= radius]

    @rule()
    def save(self) -> None:
        """The codes as a searcher in a file of its own."""
        ids, codes = self.reader.codes()
        HammingIndex(codes, BITS, ids).save(self.folder / "saved.qoi")
        opened = HammingIndex.open(self.folder / "saved.qoi")
        assert len(opened) == len(self.rows)
        if len(ids):
            assert opened.search(codes[:1], 1).distances[0, 0] == 0

    @invariant()
    def they_say_the_same(self) -> None:
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.reader) == len(self.rows)
        assert self.index.last_id == self.last_id
        said = {image.id: (image.relative.decode(), image.margins.tolist()) for image in self.index}
        assert said == {id: (name, margins.tolist()) for id, (name, margins) in self.rows.items()}
        ids, codes = self.reader.codes()
        assert ids.tolist() == sorted(self.rows)
        for id, code in zip(ids.tolist(), codes, strict=True):
            assert np.array_equal(unpack_codes(code[None], BITS)[0], self.rows[id][1] > 0)

    @rule()
    def verify(self) -> None:
        assert self.index.verify().ok


TestIndexAsDictionary = IndexAsDictionary.TestCase
TestIndexAsDictionary.settings = settings(
    max_examples=max(1, STEPS // 30),
    stateful_step_count=30,
    deadline=None,
    derandomize="QUERYOPT_FUZZ_STEPS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
