import pytest

from queryopt.errors import DataError
from queryopt.train.datasets import official_dataset


@pytest.fixture
def folder(replica):
    return replica("food101")


def load(folder):
    return official_dataset("food101").load(folder, any_size=True)


def test_lists_name_pictures_without_a_suffix(folder):
    splits = load(folder)
    assert splits.train.classes == ("apple_pie", "baby_back_ribs", "baklava")
    assert splits.train.paths[0] == "images/apple_pie/1005649.jpg"


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("train.txt", 2, "apple_pie", r"train\.txt, line 2: apple_pie is no picture: <class>/<number> is needed"),
        ("train.txt", 2, "apple_pie/", r"train\.txt, line 2: apple_pie/ is no picture"),
        ("train.txt", 2, "apple_pie/1005650 0", r"train\.txt, line 2: .*2 columns, but the layout is <class/number>"),
        ("train.txt", 2, "apple_pies/1005650", r"train\.txt, line 2: class apple_pies is unknown.*mean apple_pie\?"),
        ("train.txt", 2, "apple_pie/1", r"train\.txt, line 2: images/apple_pie/1\.jpg: no such picture"),
        ("train.txt", 2, "apple_pie/../../../x", r"train\.txt, line 2: .*leads out of the data set's folder"),
        ("test.txt", 1, "apple_pie/1005649", r"test\.txt, line 1: .*is in train\.txt, line 1 already"),
        ("classes.txt", 3, None, r"labels\.txt: 3 names, but classes\.txt has 2 classes"),
        ("labels.txt", 3, None, r"labels\.txt: 2 names, but classes\.txt has 3 classes"),
    ],
)
def test_a_malformed_row_is_named(folder, edit, file, line, text, message):
    edit(folder / "meta" / file, line, text)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_names_for_people_are_not_needed(folder):
    before = load(folder).train.classes
    (folder / "meta" / "labels.txt").unlink()
    assert load(folder).train.classes == before


def test_a_class_without_a_training_picture_is_named(folder):
    for name, text in (("classes", "waffles\nsushi"), ("labels", "Waffles\nSushi")):
        with open(folder / "meta" / f"{name}.txt", "a") as file:
            file.write(text)
    with pytest.raises(
        DataError, match=r"classes\.txt, line 4: class waffles has no training picture, nor have 1 more"
    ):
        load(folder)
