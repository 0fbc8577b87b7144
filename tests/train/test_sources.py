import os

import pytest

from queryopt.errors import DataError, UsageError
from queryopt.train.data import load_image_folder
from queryopt.train.sources import absolute_source, load_data, official_source, with_root


@pytest.mark.parametrize(
    ("text", "name", "root", "variant", "any_size"),
    [
        ("cub200:/data", "cub200", "/data", "", False),
        ("cub200:a:b+c", "cub200", "a:b+c", "", False),
        ("vegfru+val:data", "vegfru", "data", "val", False),
        ("vegfru+any-size+val:data", "vegfru", "data", "val", True),
        ("nabirds+any-size:.", "nabirds", ".", "", True),
    ],
)
def test_an_official_set_in_one_line(text, name, root, variant, any_size):
    source = official_source(text)
    assert (source.dataset.name, source.root, source.variant, source.any_size) == (name, root, variant, any_size)
    assert official_source(str(source)) == source


@pytest.mark.parametrize(
    "text", ["photos", "./cub200", "/data/cub200", "synthetic:birds", "cub2000:/data", "my+cub200"]
)
def test_everything_else_is_none(text):
    assert official_source(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cub200", r"cub200 is a data set: .*--root DIR .*\./cub200"),
        ("cub200:", "--root DIR"),
        ("cub200+val:/data", r"cub200\+val: no option val; there are any-size"),
        ("vegfru+all:/data", r"vegfru\+all: no option all; there are any-size, val"),
        ("vegfru+val+all:/data", "can't be had together"),
    ],
)
def test_what_makes_no_sense_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        official_source(text)


def test_root_and_any_size_complete_it():
    assert with_root("photos", None) == "photos"
    assert with_root(None, None) is None
    assert with_root("cub200", "/d") == "cub200:/d"
    assert with_root("vegfru+val", "/d", any_size=True) == "vegfru+val+any-size:/d"
    assert with_root("cub200+any-size:/d", None, any_size=True) == "cub200+any-size:/d"
    with pytest.raises(UsageError, match=r"--root goes with an official data set, and photos is none: .*aircraft"):
        with_root("photos", "/d")
    with pytest.raises(UsageError, match="--any-size goes with"):
        with_root("photos", None, any_size=True)
    with pytest.raises(UsageError, match="leave --root out"):
        with_root("cub200:/a", "/d")


def test_absolute_means_the_same_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert absolute_source("vegfru+val+any-size:d/../e") == f"vegfru+val+any-size:{tmp_path}/e"
    assert absolute_source("photos") == f"{tmp_path}/photos"
    assert absolute_source("synthetic:birds").startswith("synthetic:birds?")
    for text in ("cub200:d", "photos", "synthetic:birds"):
        assert absolute_source(absolute_source(text)) == absolute_source(text)


def test_a_folder_and_a_generated_set(labelled_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = load_data(labelled_folder, seed=3, test_fraction=0.5)
    direct = load_image_folder(labelled_folder, seed=3, test_fraction=0.5)
    assert (mine.train.paths, mine.test.paths) == (direct.train.paths, direct.test.paths)
    assert len(load_data("synthetic:birds?classes=2&train=2&test=1&size=16").test) == 2
    assert os.listdir(tmp_path) == ["birds-2x2+1-16px-seed0"]


def test_an_official_set_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="CUB-200-2011 is not here"):
        load_data(f"cub200:{tmp_path}")


@pytest.mark.parametrize(("folder", "named"), [(".", "."), ("food-101", "food-101")])
def test_an_official_layout_is_no_folder_of_classes(folder, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "food-101" / "meta").mkdir(parents=True)
    (tmp_path / "food-101" / "meta" / "classes.txt").write_text("apple_pie")
    with pytest.raises(UsageError, match=rf"here is Food-101 .*--data food101 --root {named}$"):
        load_data(folder)
