import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from queryopt.card import ModelCard, Preprocessing
from queryopt.errors import MismatchError, UsageError
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.hits import FailedQuery, QueryResult
from queryopt.runtime.index import HashIndex
from queryopt.runtime.query import search_files
from queryopt.runtime.search.ranked import quantise

DATA = Path(__file__).parents[1] / "data"
EXPECTED = json.loads((DATA / "v1" / "expected.json").read_text())


@pytest.fixture(scope="module")
def hasher():
    return Hasher(DATA / "v1" / "model.onnx", threads=1)


@pytest.fixture
def index(tmp_path, hasher):
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    with HashIndex.create(tmp_path / "photos.db", hasher.card, tmp_path / "photos", hasher.model_path) as index:
        index.update(hasher)
        yield index


def never():
    raise AssertionError("the model was opened")


def paths(index, *names):
    return [os.fsencode(index.root / name) for name in names]


def distance(one, other):
    return (EXPECTED["pictures"][one]["integer"] ^ EXPECTED["pictures"][other]["integer"]).bit_count()


def test_a_picture_of_the_index_is_searched_with_its_stored_code(index):
    [result] = search_files(index, paths(index, "finch/1.jpg"), never, k=8)
    assert isinstance(result, QueryResult)
    assert (result.stored, result.label, result.bits) == (True, "finch", 12)
    assert result.code.tobytes().hex() == EXPECTED["pictures"]["finch/1.jpg"]["code"]
    assert [hit.distance for hit in result.hits] == sorted(distance("finch/1.jpg", n) for n in EXPECTED["pictures"])
    assert [hit.rank for hit in result.hits] == list(range(1, 9))
    assert [hit.score for hit in result.hits] == [None] * 8
    for hit in result.hits:
        name = os.fsdecode(hit.name)
        assert hit.distance == len(hit.differs) == distance("finch/1.jpg", name)
        assert hit.label == name.partition("/")[0]
        assert hit.path == os.fsencode(index.root / name)
        integers = (EXPECTED["pictures"][n]["integer"] for n in ("finch/1.jpg", name))
        assert sum(1 << bit for bit in hit.differs) == next(integers) ^ next(integers)


def test_other_pictures_are_hashed_with_the_model_opened_once(index, hasher, tmp_path):
    for n in (1, 2):
        shutil.copy(DATA / "pictures" / "heron" / f"{n}.jpg", tmp_path / f"new{n}.jpg")
    opened = []
    given = [os.fsencode(tmp_path / "new1.jpg"), *paths(index, "finch/2.jpg"), os.fsencode(tmp_path / "new2.jpg")]
    results = list(search_files(index, given, lambda: opened.append(1) or hasher, k=1, batch=1))
    assert [result.path for result in results] == given
    assert [result.stored for result in results] == [False, True, False]
    assert [os.fsdecode(result.hits[0].name) for result in results] == ["heron/1.jpg", "finch/2.jpg", "heron/2.jpg"]
    assert [result.hits[0].distance for result in results] == [0, 0, 0]
    assert [(result.id, result.label) for result in results][::2] == [(None, None)] * 2
    assert np.array_equal(results[0].margins, results[0].hits[0].margins)
    assert len(opened) == 1


def test_a_changed_picture_of_the_index_is_hashed_again(index, hasher):
    shutil.copy(DATA / "pictures" / "heron" / "1.jpg", index.root / "finch" / "1.jpg")
    [result] = search_files(index, paths(index, "finch/1.jpg"), lambda: hasher, k=2, exclude_self=True)
    assert not result.stored
    assert result.id == index.find("finch/1.jpg").id
    assert os.fsdecode(result.hits[0].name) == "heron/1.jpg"


def test_exclude_self_leaves_out_the_query_alone_and_still_gives_k(index):
    [whole] = search_files(index, paths(index, "finch/1.jpg"), never, k=4)
    [others] = search_files(index, paths(index, "finch/1.jpg"), never, k=3, exclude_self=True)
    assert [hit.id for hit in others.hits] == [hit.id for hit in whole.hits if hit.id != whole.id]
    assert [hit.rank for hit in others.hits] == [1, 2, 3]


@pytest.mark.parametrize("k", [None, 3])
def test_radius_gives_all_within_it_or_the_nearest_of_them(index, k):
    near = sorted(distance("finch/2.jpg", name) for name in EXPECTED["pictures"])
    [result] = search_files(index, paths(index, "finch/2.jpg"), never, k=k, radius=4)
    assert [hit.distance for hit in result.hits] == [d for d in near if d <= 4][:k]
    [alone] = search_files(index, paths(index, "finch/2.jpg"), never, k=k, radius=0, exclude_self=True)
    assert alone.hits == ()


@pytest.mark.parametrize("rank", ["margin", "id"])
@pytest.mark.parametrize("hashed", [False, True])
def test_equal_distances_are_in_the_order_of_margins_or_ids(index, hasher, tmp_path, rank, hashed):
    given = index.root / "finch" / "2.jpg"
    own = index.find("finch/2.jpg").margins.astype(int)
    if hashed:  # whose logits become the same margins
        given = shutil.copy(given, tmp_path / "new.jpg")
    expected = []
    for image in index:
        square = int(((image.margins - own) ** 2).sum())
        expected.append((distance("finch/2.jpg", os.fsdecode(image.relative)), rank == "margin" and square, image.id))
    expected.sort()
    by_id = sorted((d, id) for d, _, id in expected)
    assert ([id for *_, id in expected] == [id for _, id in by_id]) == (rank == "id")
    for k, radius in ((8, None), (3, None), (None, 6), (2, 6)):
        [result] = search_files(index, [os.fsencode(given)], lambda: hasher, k=k, radius=radius, rank=rank)
        assert (result.stored, result.rank) == (not hashed, rank)
        within = [id for d, _, id in expected if radius is None or d <= radius][:k]
        assert [hit.id for hit in result.hits] == within
    assert expected[0] == (0, 0, index.find("finch/2.jpg").id)


def score(weights, one, other):
    differ = EXPECTED["pictures"][one]["integer"] ^ EXPECTED["pictures"][other]["integer"]
    return sum(int(weight) for bit, weight in enumerate(weights) if differ >> bit & 1)


@pytest.mark.parametrize("rank", ["weighted", "tiebreak"])
@pytest.mark.parametrize("hashed", [False, True])
def test_a_ranked_search_goes_by_the_querys_logits_or_its_stored_margins(index, hasher, tmp_path, rank, hashed):
    given, logits = index.root / "finch" / "2.jpg", index[index.find("finch/2.jpg").id].margins
    if hashed:
        given = shutil.copy(given, tmp_path / "new.jpg")
        logits = hasher.hash_files([given]).logits[0]
    weights = quantise(logits[None], 12)[0]
    expected = []
    for image in index:
        name = os.fsdecode(image.relative)
        w, d = score(weights, "finch/2.jpg", name), distance("finch/2.jpg", name)
        expected.append((*((w, d) if rank == "weighted" else (d, w)), image.id, w, d))
    expected.sort()
    for k, radius in ((8, None), (3, None), (None, 5), (2, 5)):
        [result] = search_files(index, [os.fsencode(given)], lambda: hasher, k=k, radius=radius, rank=rank)
        assert result.stored is not hashed
        within = [row for row in expected if radius is None or row[-1] <= radius][:k]
        assert [(hit.id, hit.score, hit.distance) for hit in result.hits] == [row[-3:] for row in within]
        assert [hit.rank for hit in result.hits] == list(range(1, len(within) + 1))
    assert len(within) == 2
    assert len({row[-2] for row in expected}) > 4


def test_more_hits_than_there_are_pictures_are_not_made_up(index):
    [result] = search_files(index, paths(index, "finch/2.jpg"), never, k=1000)
    assert len(result.hits) == 8
    [nothing] = search_files(index, paths(index, "finch/2.jpg"), never, k=0)
    assert nothing.hits == ()


def test_unreadable_queries_come_in_their_place_with_the_reason(index, hasher, tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    given = [*paths(index, "gone.jpg"), *paths(index, "heron/4.png"), os.fsencode(tmp_path / "text.jpg")]
    gone, fine, text = search_files(index, given, lambda: hasher, k=1)
    assert isinstance(gone, FailedQuery)
    assert isinstance(text, FailedQuery)
    assert (gone.path, text.path) == (given[0], given[2])
    assert gone.reason
    assert text.reason
    assert fine.hits[0].distance == 0


def test_vanished_and_stale_hits_are_marked(index, hasher):
    (index.root / "finch" / "3.jpg").unlink()
    (index.root / "finch" / "2.jpg").write_bytes(b"broken")
    index.update(hasher)
    [result] = search_files(index, paths(index, "finch/1.jpg"), never, k=8)
    assert {os.fsdecode(hit.name) for hit in result.hits if hit.missing} == {"finch/3.jpg"}
    assert {os.fsdecode(hit.name) for hit in result.hits if hit.stale} == {"finch/2.jpg"}


def test_a_file_name_that_is_not_utf8_finds_itself(index, hasher):
    odd = os.path.join(os.fsencode(index.root), b"heron", b"\xe9\n.jpg")
    shutil.copy(index.root / "heron" / "1.jpg", odd)
    index.update(hasher)
    [result] = search_files(index, [odd], never, k=2)
    assert {hit.path for hit in result.hits} == {odd, *paths(index, "heron/1.jpg")}


def test_another_model_is_refused(index, tmp_path):
    shutil.copy(DATA / "pictures" / "heron" / "1.jpg", tmp_path / "new.jpg")
    other = ModelCard(12, Preprocessing.for_size(32), "tiny", "fp32", 1.0, "0" * 64)

    class Other:
        card, model_path = other, Path("other.onnx")

    with pytest.raises(MismatchError, match=r"other\.onnx.*another model"):
        list(search_files(index, [os.fsencode(tmp_path / "new.jpg")], Other, k=1))


def test_neither_k_nor_radius_is_an_error(index):
    with pytest.raises(UsageError, match="give k"):
        list(search_files(index, [], never, k=None))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("radius", [None, 5])
def test_ties_are_the_pictures_that_ids_alone_put_behind_the_last_hit(index, hasher, exclude_self, radius):
    for number in range(4):
        shutil.copy(index.root / "heron" / "1.jpg", index.root / f"{number}.jpg")
    index.update(hasher)
    asked = paths(index, "heron/1.jpg", "finch/2.jpg")
    whole = list(search_files(index, asked, never, k=None, radius=12, exclude_self=exclude_self))
    assert [result.ties for result in whole] == [0, 0]
    seen = set()
    for k in range(13):
        some = search_files(index, asked, never, k=k, radius=radius, exclude_self=exclude_self)
        for all_, result in zip(whole, some, strict=True):
            assert [hit.id for hit in result.hits] == [h.id for h in all_.hits if h.distance <= (radius or 12)][:k]
            last = result.hits[-1].distance if result.hits else -1
            assert result.ties == sum(hit.distance == last for hit in all_.hits[len(result.hits) :])
            seen.add(result.ties)
    assert seen >= {0, 1, 2, 3}


def test_hits_are_of_one_state_though_others_write_meanwhile(index, monkeypatch):
    """Distances and order come from a search, paths and codes from rows read after it."""
    query = index[1]
    search, others = HashIndex.search, [image for image in index if image.id != query.id]

    def interrupted(self, *args, **options):
        result = search(self, *args, **options)
        if others:  # right after the search, another process gives all the others the codes of each other
            images, turned = list(others), [*others[1:], others[0]]
            others.clear()
            with HashIndex.open(index.path) as writer:
                codes, margins = (np.stack([getattr(image, name) for image in turned]) for name in ("code", "margins"))
                writer.add([image.path for image in images], codes, margins * (index.card.logit_scale / 127))
        return result

    monkeypatch.setattr(HashIndex, "search", interrupted)
    [result] = search_files(index, paths(index, query.relative.decode()), never)
    assert not others
    distances = [hit.distance for hit in result.hits]
    assert distances == sorted(distances)
    assert distances != [0] * len(distances)
