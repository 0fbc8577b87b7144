import pytest

from queryopt.errors import DataError
from queryopt.train.datasets import official_dataset


@pytest.fixture
def folder(replica):
    return replica("aircraft")


def load(folder):
    return official_dataset("aircraft").load(folder, any_size=True)


def test_names_with_spaces_and_ids_with_leading_zeros(folder):
    splits = load(folder)
    assert splits.train.classes == ("707-320", "Boeing 717", "F/A-18")
    assert splits.train.paths[0] == "data/images/0000007.jpg"
    assert splits.train.labels[splits.train.paths.index("data/images/0000107.jpg")] == 1


def test_trains_on_trainval(folder):
    part = {name: (folder / "data" / f"images_variant_{name}.txt").read_text() for name in ("train", "val")}
    assert set(load(folder).train.paths) == {
        f"data/images/{line.split()[0]}.jpg" for text in part.values() for line in text.splitlines()
    }


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("images_variant_trainval.txt", 4, "0000107", r"trainval\.txt, line 4: 0000107: 1 column"),
        ("images_variant_trainval.txt", 4, "107 Boeing 717", r"trainval\.txt, line 4: 107 is no id.*7 digits"),
        (
            "images_variant_trainval.txt",
            4,
            "0000107 Boeing 71",
            r"trainval\.txt, line 4: variant Boeing 71 is unknown.*did you mean Boeing 717\?",
        ),
        (
            "images_variant_trainval.txt",
            4,
            "0009999 Boeing 717",
            r"trainval\.txt, line 4: data/images/0009999.*no such",
        ),
        (
            "images_variant_test.txt",
            1,
            "0000007 707-320",
            r"test\.txt, line 1: .*in images_variant_trainval\.txt, line 1",
        ),
        ("variants.txt", 2, None, r"trainval\.txt, line \d+: variant Boeing 717 is unknown"),
        (
            "variants.txt",
            2,
            "707-320",
            r"variants\.txt, line 2: class 707-320 is in line 1 already|Boeing 717 is unknown",
        ),
    ],
)
def test_a_malformed_row_is_named(folder, edit, file, line, text, message):
    edit(folder / "data" / file, line, text)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_variant_twice_or_without_pictures_is_named(folder):
    path = folder / "data" / "variants.txt"
    whole = path.read_text()
    path.write_text(whole + "DC-3\n")
    with pytest.raises(DataError, match=r"variants\.txt, line 4: class DC-3 has no training picture"):
        load(folder)
    path.write_text(whole + "Boeing 717\n")
    with pytest.raises(DataError, match=r"variants\.txt, line 4: class Boeing 717 is in line 2 already"):
        load(folder)
