import numpy as np
import pytest

from queryopt.codes import pack_codes
from queryopt.runtime import Hasher, HashIndex
from queryopt.runtime.index.meta import Meta
from queryopt.runtime.index.rows import Row, encode_margins
from queryopt.runtime.index.store import Store
from queryopt.runtime.serve.survey import Background, group_codes, survey

BITS = 12


@pytest.fixture
def filled(frozen_model, tmp_path):
    """(logits [n, 12]) -> the path of an index of so many pictures."""

    def fill(logits):
        with Hasher(frozen_model, threads=1) as hasher:
            card = hasher.card
        path = tmp_path / "i.db"
        codes = pack_codes(logits >= 0)
        margins = encode_margins(codes, logits, BITS, card.logit_scale)
        # Rows alone: thousands of files would take a while.
        Store.create(path, Meta(card, tmp_path, None, (card.precision,)))
        store = Store.open(path, readonly=False, timeout=30)
        with store.change() as changes:
            changes.put(
                Row(b"%d.jpg" % i, 1, 1, code.tobytes(), margin.tobytes(), None)
                for i, (code, margin) in enumerate(zip(codes, margins, strict=True))
            )
        with store.change() as changes:
            changes.remove([6, 7, 8])
        store.close()
        return path

    return fill


def rows_of(path):
    with HashIndex.open(path, readonly=True) as index:
        return {image.id: image for image in index}


@pytest.mark.parametrize("most", [3, 2000])
def test_the_survey_is_that_of_all_margins(filled, most):
    # 5,000: more than a part that is read at once. Whole steps make many margins equal.
    logits = np.round(np.random.default_rng(1).normal(size=(5000, BITS)), 1).astype(np.float32)
    path = filled(logits)
    margins = {id: image.margins.astype(int) for id, image in rows_of(path).items()}
    *parts, whole = survey(path, most)
    assert [part.images for part in parts] == [4000, 4997]
    assert whole.complete
    for bit in range(BITS):
        high = sorted((-m[bit], id) for id, m in margins.items() if m[bit] > 0)
        low = sorted((m[bit], id) for id, m in margins.items() if m[bit] < 0)
        for found, expected in ((whole.highest[bit], high), (whole.lowest[bit], low)):
            assert list(zip((-found.margins).tolist(), found.ids.tolist(), strict=True)) == expected[:most]
        assert whole.ones[bit] == len(high)


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_groups_are_those_of_their_definition(filled, radius):
    rng = np.random.default_rng(radius)
    logits = np.where(rng.random((300, BITS)) < 0.5, -1.0, 1.0).astype(np.float32)
    path = filled(logits)
    codes = {id: int.from_bytes(image.code.tobytes(), "little") for id, image in rows_of(path).items()}
    taken, expected = set(), []
    for first in sorted(codes):
        if first in taken:
            continue
        group = [id for id in sorted(codes) if id not in taken and (codes[id] ^ codes[first]).bit_count() <= radius]
        # A code that leads a group leads it for all pictures that have this very code.
        taken |= set(group)
        expected.append(group)
    expected = sorted((group for group in expected if len(group) > 1), key=lambda group: -len(group))
    *_, found = group_codes(path, radius)
    assert [group.tolist() for group in found.groups] == expected
    assert found.complete
    assert found.pictures == sum(map(len, expected))


def test_a_search_for_groups_ends_when_its_time_is_over(filled):
    logits = np.random.default_rng(3).normal(size=(2000, BITS)).astype(np.float32)
    *_, found = group_codes(filled(logits), 1, seconds=0)
    assert found.stopped
    assert 0 < found.looked_at < found.codes


def test_an_empty_index_has_no_groups_and_no_surest(filled):
    path = filled(np.ones((9, BITS), np.float32))
    with HashIndex.open(path) as index:
        index.remove([image.id for image in index])
    for radius in (0, 2):
        *_, found = group_codes(path, radius)
        assert (found.groups, found.complete) == ((), True)
    *_, whole = survey(path)
    assert (whole.images, len(whole.highest[0].ids)) == (0, 0)


def test_background_work_is_done_once_for_a_revision_and_survives_its_errors(caplog):
    calls = []

    def work():
        calls.append(len(calls))
        if len(calls) == 1:
            raise OSError("gone")
        yield len(calls)

    background = Background(work, "a test")
    assert background.get(7) is None
    background.wait()
    assert "gone" in caplog.text
    background._rest_until = 0
    background.get(7)
    background.wait()
    assert background.get(7) == 2
    background._rest_until = 0
    assert background.get(7) == 2
    assert calls == [0, 1]
    background.get(8)
    background.wait()
    assert background.get(8) == 3
    background.close()
    background._rest_until = 0
    assert background.get(9) == 3
