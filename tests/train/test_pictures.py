import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from queryopt.card import Preprocessing
from queryopt.errors import DataError
from queryopt.images import load_image, open_rgb
from queryopt.train.augment import Augmentation, train_view
from queryopt.train.data import LabelledImages, load_image_folder
from queryopt.train.draws import sample_rng
from queryopt.train.pictures import PictureSource

SIZE = Preprocessing.for_size(32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of twelve pictures of many sizes and formats."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (*rng.integers(20, 90, 2), 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.{('jpg', 'png', 'webp')[i % 3]}")
    return root


@pytest.fixture
def images(folder):
    return load_image_folder(folder, test_fraction=0).train


@pytest.fixture
def damaged(folder, tmp_path):
    """The same pictures, four of which can't be read: 1 and 5 of class a, all but 23 of class b's last three."""
    for path in folder.rglob("*.*"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "a/01.png").write_bytes(b"")
    (tmp_path / "a/05.webp").write_text("not a picture")
    (tmp_path / "b/09.jpg").write_bytes((folder / "b/09.jpg").read_bytes()[:-200])
    images = load_image_folder(tmp_path, test_fraction=0).train
    (tmp_path / "b/10.png").unlink()  # vanished since the folder was read
    return images


DAMAGED = [1, 5, 21, 22]


def in_batches(count, batch):
    return [np.arange(start, min(start + batch, count)) for start in range(0, count, batch)]


def test_plain_is_what_the_deployed_model_sees(images):
    pictures, kept = PictureSource(images, SIZE).plain(np.array([3, 20, 3]))
    assert pictures.dtype == np.uint8
    assert pictures.shape == (3, 32, 32, 3)
    assert kept.tolist() == [True, True, True]
    for row, index in enumerate((3, 20, 3)):
        np.testing.assert_array_equal(pictures[row], load_image(images.path(index), SIZE))


def test_views_are_drawn_from_seed_outer_inner_and_picture(images):
    pictures, _ = PictureSource(images, SIZE).views(np.array([7, 2]), 1, 2, 3)
    for row, index in enumerate((7, 2)):
        expected = train_view(open_rgb(images.path(index)), 32, sample_rng(1, 2, 3, index))
        np.testing.assert_array_equal(pictures[row], expected)


def test_views_use_the_augmentation(images):
    augmentation = Augmentation(scale=(0.9, 1.0), flip=False)
    pictures, _ = PictureSource(images, SIZE, augmentation).views(np.array([7]), 1, 2, 3)
    expected = train_view(open_rgb(images.path(7)), 32, sample_rng(1, 2, 3, 7), augmentation)
    np.testing.assert_array_equal(pictures[0], expected)


@pytest.mark.parametrize(("threads", "cache_bytes"), [(1, 0), (4, 0), (4, 60_000), (3, 1 << 20)])
@pytest.mark.parametrize("batch", [1, 7, 24])
def test_threads_cache_and_batches_change_nothing(images, threads, cache_bytes, batch):
    whole, _ = PictureSource(images, SIZE).views(np.arange(24), 0, 0, 0)
    source = PictureSource(images, SIZE, threads=threads, cache_bytes=cache_bytes)
    for _ in range(2):  # the second time from the cache
        parts = list(source.view_batches(in_batches(24, batch), 0, 0, 0))
        assert [len(part.pictures) for part in parts] == [len(part) for part in in_batches(24, batch)]
        np.testing.assert_array_equal(np.concatenate([part.pictures for part in parts]), whole)


def test_views_are_equal_in_another_process(images, folder):
    code = (
        "import sys, hashlib, numpy as np; from queryopt.card import Preprocessing; "
        "from queryopt.train.data import load_image_folder; from queryopt.train.pictures import PictureSource; "
        "images = load_image_folder(sys.argv[1], test_fraction=0).train; "
        "source = PictureSource(images, Preprocessing.for_size(32), threads=2); "
        "print(hashlib.sha256(source.views(np.arange(24), 5, 1, 0).pictures).hexdigest())"
    )
    run = [sys.executable, "-c", code, str(folder)]
    digests = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    pictures, _ = PictureSource(images, SIZE).views(np.arange(24), 5, 1, 0)
    assert digests == {hashlib.sha256(pictures).hexdigest() + "\n"}


def test_a_picture_that_fits_is_decoded_once(folder, tmp_path):
    root = tmp_path / "copy"
    for path in folder.rglob("*.*"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    images = load_image_folder(root, test_fraction=0).train
    one_fits = 4 * open_rgb(images.path(0)).width * open_rgb(images.path(0)).height
    source = PictureSource(images, SIZE, cache_bytes=one_fits)
    first, _ = source.plain(np.array([0]))
    source.plain(np.array([1]))
    images.path(0).unlink()
    images.path(1).unlink()
    np.testing.assert_array_equal(source.plain(np.array([0])).pictures, first)
    assert source.plain(np.array([1])).kept.tolist() == [False]  # there was no room for it
    source.close()
    assert source.plain(np.array([0])).kept.tolist() == [False]


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_unreadable_pictures_are_left_out_and_named(images, damaged, batch):
    source = PictureSource(damaged, SIZE, threads=3)
    for _ in range(2):
        parts = list(source.view_batches(in_batches(24, batch), 0, 0, 0))
        kept = np.concatenate([part.kept for part in parts])
        assert np.flatnonzero(~kept).tolist() == DAMAGED
        assert [len(part.pictures) for part in parts] == [part.kept.sum() for part in parts]
        whole, _ = PictureSource(images, SIZE).views(np.flatnonzero(kept), 0, 0, 0)
        np.testing.assert_array_equal(np.concatenate([part.pictures for part in parts]), whole)
    assert list(source.failures) == ["a/01.png", "a/05.webp", "b/09.jpg", "b/10.png"]
    reasons = list(source.failures.values())
    assert reasons[0] == "zero bytes"
    assert "text" in reasons[1]
    assert "truncated" in reasons[2]
    assert "no such file" in reasons[3]


def test_a_picture_that_failed_is_not_tried_again(damaged, folder):
    source = PictureSource(damaged, SIZE)
    assert not source.plain(np.array([1])).kept[0]
    damaged.path(1).write_bytes((folder / "a/01.png").read_bytes())
    assert not source.plain(np.array([1])).kept[0]


def test_no_readable_picture_at_all(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.jpg").write_text("no picture")
    source = PictureSource(load_image_folder(tmp_path, test_fraction=0).train, SIZE)
    assert source.plain(np.array([0])).pictures.shape == (0, 32, 32, 3)  # others may be readable
    with pytest.raises(DataError, match=r"none of its pictures can be read \(a/0\.jpg: .*; and 1 more\)"):
        source.plain(np.arange(4))


def test_an_iterator_that_is_left_early_holds_nothing_up(images):
    source = PictureSource(images, SIZE, threads=2)
    asked = []

    def batches():
        for number in range(1000):
            asked.append(number)
            yield np.arange(24)

    ahead = source.view_batches(batches(), 0, 0, 0)
    next(ahead)
    ahead.close()
    assert 1 < len(asked) < 20  # some ahead, but memory stays bounded
    assert source.plain(np.array([0])).kept.all()


def test_empty_batches_and_empty_data_sets():
    none = LabelledImages(".", (), np.zeros(0, np.int64), ("a", "b"))
    source = PictureSource(none, SIZE)
    assert list(source.plain_batches([])) == []
    pictures, kept = source.plain(np.zeros(0, np.int64))
    assert pictures.shape == (0, 32, 32, 3)
    assert kept.shape == (0,)
