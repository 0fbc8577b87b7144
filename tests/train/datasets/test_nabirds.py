import pytest

from queryopt.errors import DataError
from queryopt.train.datasets import official_dataset


@pytest.fixture
def folder(replica):
    return replica("nabirds")


def load(folder):
    return official_dataset("nabirds").load(folder, any_size=True)


def test_the_ids_in_use_sorted_are_the_classes(folder):
    splits = load(folder)
    assert splits.train.classes == ("0295 Common Eider", "0817 American Robin (Adult)", "1010 Yellow-billed Magpie")
    of_folder = {path.split("/")[1]: label for path, label in zip(splits.test.paths, splits.test.labels, strict=True)}
    assert of_folder == {"0295": 0, "0817": 1, "1010": 2}
    assert splits.train.paths[0].startswith("images/0817/00000000")


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("classes.txt", 3, None, r"image_class_labels\.txt, line 6: class 295 has no name"),
        ("classes.txt", 2, "12", r"classes\.txt, line 2: 12: 1 column, but the layout is <class> <name>"),
        ("classes.txt", 2, "twelve Common Eider", r"classes\.txt, line 2: twelve is no id of a class"),
        ("image_class_labels.txt", 1, "0 817", r"image_class_labels\.txt, line 1: picture 0 is unknown"),
        ("train_test_split.txt", 1, "0 1", r"train_test_split\.txt, line 1: picture 0 is unknown"),
        ("images.txt", 1, "0 817 x.jpg", r"images\.txt, line 1: .*3 columns"),
    ],
)
def test_a_malformed_row_is_named(folder, edit, file, line, text, message):
    edit(folder / file, line, text)
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize("path", ["../outside.jpg", "/etc/hostname", "0817/../../../outside.jpg"])
def test_a_path_never_leads_out(folder, edit, path):
    first = (folder / "images.txt").read_text().split()[0]
    edit(folder / "images.txt", 1, f"{first} {path}")
    with pytest.raises(DataError, match=r"images\.txt, line 1: (images/.*leads out|.*leads out|.*no such picture)"):
        load(folder)


def test_a_class_that_only_tests_have_is_refused(folder, edit):
    rows = (folder / "train_test_split.txt").read_text().split()
    for line in (1, 2, 3):
        edit(folder / "train_test_split.txt", line, f"{rows[2 * (line - 1)]} 0")
    with pytest.raises(DataError, match=r"classes\.txt, line 4: class 0817 American Robin .* has no training picture"):
        load(folder)


def test_a_name_that_is_not_utf_8_is_kept(folder):
    path = folder / "classes.txt"
    path.write_bytes(path.read_bytes().replace(b"Magpie", b"Magpi\xe9"))
    assert load(folder).train.classes[2].encode("utf-8", "surrogateescape") == b"1010 Yellow-billed Magpi\xe9"
