"""Copies of drawings that look alike, found through a real model's index."""

import io
import itertools
import os
import random

import pytest
from PIL import Image, ImageDraw

from queryopt.runtime import Hasher, HashIndex
from queryopt.runtime.duplicates import are_copies, find_duplicates, look_at

KINDS = ("half", "quarter", "jpeg30", "jpeg80", "cropped", "transparent")


def drawing(seed, mode="RGB", paper="white"):
    """A cut-out: a face of one of three shapes, whose ears, eyes and mouth are where `seed` says."""
    rng = random.Random(seed)
    image = Image.new(mode, (360, 300), paper)
    draw = ImageDraw.Draw(image)
    colour = rng.choice(["#d04030", "#3060c0", "#e0c020"])
    [draw.ellipse, draw.rectangle, draw.ellipse][seed % 3]((80, 50, 280, 260), fill=colour, outline="black", width=4)
    for _ in range(5):
        x, y, size = rng.randint(100, 230), rng.randint(70, 210), rng.randint(20, 45)
        shape = rng.choice([draw.ellipse, draw.rectangle])
        shape((x, y, x + size, y + size), fill=rng.choice(["black", "white", "#208040"]))
    return image


def save_copy(kind, seed, folder):
    image = drawing(seed)
    if kind in ("half", "quarter"):
        scale = 2 if kind == "half" else 4
        image.resize((image.width // scale, image.height // scale)).save(folder / f"{seed}_{kind}.png")
    elif kind.startswith("jpeg"):
        image.save(folder / f"{seed}_{kind}.jpg", quality=int(kind[4:]))
    elif kind == "cropped":
        image.crop((10, 3, 352, 291)).save(folder / f"{seed}_{kind}.png")  # 5 % of the width, 4 % of the height
    else:
        drawing(seed, "RGBA", (0, 0, 0, 0)).save(folder / f"{seed}_{kind}.png")


@pytest.fixture(scope="module")
def model(explained_model):
    with Hasher(explained_model, threads=1) as hasher:
        yield hasher


@pytest.fixture
def index_of(model, tmp_path):
    """() -> an index, open, of the pictures in tmp_path / "p"."""
    (tmp_path / "p").mkdir()
    opened = []

    def make():
        index = HashIndex.create(tmp_path / "i.db", model.card, tmp_path / "p")
        index.update(model)
        opened.append(index)
        return index

    yield make
    for index in opened:
        index.close()


def search(index):
    *_, found = find_duplicates(index, threads=1)
    assert found.complete
    return found


def names(group):
    return [os.fsdecode(copy.image.relative) for copy in group]


def test_copies_are_found_among_look_alikes_and_nothing_else(index_of, tmp_path):
    for seed in range(40):
        drawing(seed).save(tmp_path / "p" / f"{seed}_original.png")
    for seed in range(12):
        for kind in KINDS:
            save_copy(kind, seed, tmp_path / "p")
    before = sorted(os.listdir(tmp_path / "p"))
    found = search(index_of())
    assert not found.problems
    pairs = [pair for group in found.groups for pair in itertools.combinations(names(group), 2)]
    right = [one for one, other in pairs if one.split("_")[0] == other.split("_")[0]]
    assert len(right) >= 0.99 * len(pairs)
    # What the tiny model makes of a crop is its affair; all else has margins like the original's.
    assert len(right) >= 12 * 6 * 5 // 2
    for seed in range(12):
        original, cropped = (
            look_at(os.fsencode(tmp_path / "p" / f"{seed}_{kind}.png")) for kind in ("original", "cropped")
        )
        assert are_copies(original, cropped)
    for group in found.groups:
        # The one to keep: no copy has more pixels.
        assert group[0].width * group[0].height == max(copy.width * copy.height for copy in group)
        assert (group[0].bits, group[0].difference) == (0, 0)
        for copy in group:
            with Image.open(copy.image.path) as image:
                assert (copy.width, copy.height) == image.size
    assert sorted(os.listdir(tmp_path / "p")) == before


def test_files_that_are_gone_changed_or_unreadable_are_named_and_the_others_found(index_of, tmp_path):
    folder = tmp_path / "p"
    for name in ("a.png", "b.png", "gone.png", "changed.png", "broken.png"):
        drawing(3).save(folder / name)
    index = index_of()
    (folder / "gone.png").unlink()
    drawing(4).save(folder / "changed.png")
    status = os.stat(folder / "broken.png")
    (folder / "broken.png").write_bytes(bytes(status.st_size))
    os.utime(folder / "broken.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    found = search(index)
    assert [names(group) for group in found.groups] == [["a.png", "b.png"]]
    assert "not there" in found.problems[b"gone.png"]
    assert "changed since" in found.problems[b"changed.png"]
    assert "only zero bytes" in found.problems[b"broken.png"]


def test_nothing_is_in_an_empty_index_and_an_end_to_the_time_is_said(index_of, tmp_path, monkeypatch):
    for number in range(4):
        drawing(1).save(tmp_path / "p" / f"{number}.png")
    index = index_of()
    assert [names(group) for group in search(index).groups] == [["0.png", "1.png", "2.png", "3.png"]]
    monkeypatch.setattr("queryopt.runtime.duplicates._CHUNK", 2)
    *_, stopped = find_duplicates(index, threads=1, seconds=0)
    assert stopped.stopped
    assert 0 < stopped.compared < stopped.pairs
    index.remove([image.id for image in index])
    assert search(index).groups == ()


def look_of(image, tmp_path, **options):
    data = io.BytesIO()
    image.save(data, options.pop("format", "PNG"), **options)
    (tmp_path / "look").write_bytes(data.getvalue())
    return look_at(os.fsencode(tmp_path / "look"))


def striped(*colours):
    image = Image.new("RGB", (320, 240))
    for number, colour in enumerate(colours):
        image.paste(colour, (0, 240 * number // len(colours), 320, 240 * (number + 1) // len(colours)))
    return image


def dotted(x, y, colour="red"):
    image = Image.new("RGB", (400, 400), "white")
    ImageDraw.Draw(image).ellipse((x, y, x + 24, y + 24), fill=colour)
    return image


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (striped("white", "red"), striped("red", "white")),
        (striped("red", "white", "blue"), striped("red", "white", "darkblue")),
        (striped("red", "white"), striped("red", "white").resize((480, 240))),
        (dotted(40, 40), dotted(300, 300)),
        (dotted(40, 40), dotted(40, 40, "blue")),
        (dotted(40, 40), Image.new("RGB", (400, 400), "white")),
    ],
    ids=["upside down", "another shade", "another shape", "another place", "another colour", "blank"],
)
def test_look_alikes_are_no_copies(one, other, tmp_path):
    assert not are_copies(look_of(one, tmp_path), look_of(other, tmp_path))


@pytest.mark.parametrize("image", [striped("white", "red"), drawing(2), Image.new("RGB", (90, 70), "blue")])
def test_a_small_or_recompressed_copy_looks_the_same(image, tmp_path):
    look = look_of(image, tmp_path)
    assert are_copies(look, look_of(image, tmp_path, format="JPEG", quality=40))
    small = image.resize((image.width // 3, image.height // 3), Image.Resampling.LANCZOS)
    assert are_copies(look, look_of(small, tmp_path))
