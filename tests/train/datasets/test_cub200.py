import numpy as np
import pytest

from queryopt.errors import DataError
from queryopt.train.datasets import official_dataset

CUB = official_dataset("cub200")


@pytest.fixture
def folder(replica):
    return replica("cub200")


def load(folder):
    return CUB.load(folder, any_size=True)


def test_classes_are_called_as_their_folders(folder):
    splits = load(folder)
    assert splits.train.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    assert splits.train.paths[0] == "images/001.Black_footed_Albatross/Black_footed_Albatross_0000_80.jpg"
    assert splits.train.root == folder


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("images.txt", 2, "2", r"images\.txt, line 2: 2: 1 column, but the layout is <picture> <path>"),
        ("images.txt", 2, "2 a b.jpg", r"images\.txt, line 2: 2 a b\.jpg: 3 columns, but the layout is"),
        ("images.txt", 5, None, r"image_class_labels\.txt, line 5: picture 5 is unknown: images\.txt has no such id"),
        ("images.txt", 5, "4 x/y.jpg", r"images\.txt, line 5: picture 4 is in line 4 already"),
        ("images.txt", 5, "5 ../../etc/passwd", r"in another class's folder: \.\./"),
        ("image_class_labels.txt", 7, None, r"images\.txt, line 7: picture 7 has no class: image_class_labels\.txt"),
        ("image_class_labels.txt", 7, "7 9", r"image_class_labels\.txt, line 7: class 9 has no name: classes\.txt"),
        ("image_class_labels.txt", 7, "7 two", r"image_class_labels\.txt, line 7: two is no id of a class"),
        ("image_class_labels.txt", 7, "7 1", r"line 7: picture 7 has class 1 \(001.*but lies in another.*images\.txt"),
        ("image_class_labels.txt", 7, "99 1", r"image_class_labels\.txt, line 7: picture 99 is unknown"),
        ("train_test_split.txt", 3, "3 2", r"train_test_split\.txt, line 3: 2 is no part of the data set: 1 .*or 0"),
        ("train_test_split.txt", 3, "300 1", r"train_test_split\.txt, line 3: picture 300 is unknown"),
        ("train_test_split.txt", 3, None, r"images\.txt, line 3: picture 3 has no part of the data set"),
        ("train_test_split.txt", 3, "3 1 1", r"train_test_split\.txt, line 3: 3 1 1: 3 columns"),
        ("classes.txt", 3, None, r"image_class_labels\.txt, line 11: class 3 has no name"),
        ("classes.txt", 3, "2 003.Sooty_Albatross", r"classes\.txt, line 3: class 2 is in line 2 already"),
        ("classes.txt", 3, "3", r"classes\.txt, line 3: 3: 1 column, but the layout is <class> <name>"),
    ],
)
def test_a_malformed_row_is_named(folder, edit, file, line, text, message):
    edit(folder / file, line, text)
    with pytest.raises(DataError, match=message) as refused:
        load(folder)
    assert str(folder) in str(refused.value)


def test_a_class_without_a_training_picture_is_named(folder, edit):
    with open(folder / "classes.txt", "a") as file:
        file.write("4 004.Groove_billed_Ani\n")
    with pytest.raises(DataError, match=r"classes\.txt, line 4: class 004.Groove_billed_Ani has no training picture$"):
        load(folder)
    edit(folder / "classes.txt", 4, None)
    for picture in (11, 12, 13):
        edit(folder / "train_test_split.txt", picture, f"{picture} 0")
    with pytest.raises(DataError, match=r"classes\.txt, line 3: class 003.Sooty_Albatross has no training picture$"):
        load(folder)


def test_one_class_is_no_data_set(folder):
    for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt"):
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(lines[:5]))
    (folder / "classes.txt").write_text("1 001.Black_footed_Albatross\n")
    with pytest.raises(DataError, match=r"one class only \(001\.Black"):
        load(folder)


@pytest.mark.parametrize("place", ["beside", "inside", "in attributes"])
def test_attributes_of_every_picture(folder, place):
    names = folder.parent / "attributes.txt"
    if place != "beside":
        names.rename(folder / ("attributes.txt" if place == "inside" else "attributes/attributes.txt"))
    found = CUB.load_attributes(folder.parent, any_size=True)
    assert found.names == (
        "has_bill_shape::curved_(up_or_down)",
        "has_bill_shape::dagger",
        "has_wing_color::blue",
        "has_wing_color::brown",
    )
    assert found.groups() == {"has_bill_shape": (0, 1), "has_wing_color": (2, 3)}
    assert found.present.shape == found.certainties.shape == (15, 4)
    test = load(folder).test
    rows = found.of(test)
    assert rows.paths == test.paths
    # In the replica, a class shows the attribute at its own position, and certainties go round.
    assert np.array_equal(rows.present, np.arange(4)[None] == test.labels[:, None])
    ids = np.array([int(path[:-4].rpartition("_")[2]) - 79 for path in test.paths])
    assert np.array_equal(rows.certainties, 1 + (ids[:, None] + np.arange(1, 5)) % 4)
    assert (rows.present.dtype, rows.certainties.dtype) == (np.bool_, np.uint8)


def test_attributes_in_any_order_with_crlf_and_a_byte_order_mark(folder):
    expected = CUB.load_attributes(folder, any_size=True)
    path = folder / "attributes" / "image_attribute_labels.txt"
    lines = path.read_text().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*reversed(lines), "", " "]).encode())
    found = CUB.load_attributes(folder, any_size=True)
    assert np.array_equal(found.present, expected.present)
    assert np.array_equal(found.certainties, expected.certainties)


def test_attributes_belong_to_ids_in_whatever_order_these_stand(folder):
    test = load(folder).test
    expected = CUB.load_attributes(folder, any_size=True).of(test)
    for path in (folder / "images.txt", folder.parent / "attributes.txt"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[2:], *lines[1::-1]]))
    found = CUB.load_attributes(folder, any_size=True).of(test)
    columns = [found.names.index(name) for name in expected.names]
    assert columns != sorted(columns)
    assert np.array_equal(found.present[:, columns], expected.present)
    assert np.array_equal(found.certainties[:, columns], expected.certainties)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (6, "2 2 1", r"line 6: 2 2 1: 3 columns, but the layout begins with <picture> <attribute> <present> <cert"),
        (6, "99 2 1 4 1.0", r"line 6: picture 99 is unknown: images\.txt has no such id"),
        (6, "2 5 1 4 1.0", r"line 6: attribute 5 is unknown: attributes\.txt has no such id"),
        (6, "2 2 2 4 1.0", r"line 6: 2 is neither 1 \(present\) nor 0 \(absent\)"),
        (6, "2 2 1 5 1.0", r"line 6: 5 is no certainty: 1 to 4"),
        (6, "2 2 1 0 1.0", r"line 6: 0 is no certainty: 1 to 4"),
        (6, "2 two 1 4 1.0", r"line 6: two is no attribute: a whole number is needed"),
        (6, "2 2 -1 4 1.0", r"line 6: -1 is neither"),
        (6, "2 2 1.0 4 1.0", r"line 6: 1\.0 is no present: a whole number"),
        (6, f"2 {10**30} 1 4 1.0", r"line 6: 10000+ is no attribute: a whole number"),
        (6, "2 1 1 4 1.0", r"line 6: picture 2 has attribute 1 already"),
        (
            6,
            None,
            r"59 rows, but 15 pictures x 4 attributes are 60: the first that is missing is picture 2 with att.* 2",
        ),
    ],
)
def test_a_malformed_row_of_attributes_is_named(folder, edit, line, text, message):
    path = folder / "attributes" / "image_attribute_labels.txt"
    edit(path, line, text)
    with pytest.raises(DataError, match=rf"image_attribute_labels\.txt.*{message}"):
        CUB.load_attributes(folder, any_size=True)


def test_lines_are_counted_with_the_empty_ones(folder, edit):
    path = folder / "attributes" / "image_attribute_labels.txt"
    path.write_text("\n\n" + path.read_text())
    edit(path, 8, "2 2 2 4 1.0")
    with pytest.raises(DataError, match=r"line 8: 2 is neither"):
        CUB.load_attributes(folder, any_size=True)


def test_attributes_that_are_missing(folder):
    (folder / "attributes" / "image_attribute_labels.txt").write_text("\n")
    with pytest.raises(DataError, match=r"image_attribute_labels\.txt: no rows"):
        CUB.load_attributes(folder, any_size=True)
    (folder / "attributes" / "image_attribute_labels.txt").unlink()
    with pytest.raises(DataError, match=r"image_attribute_labels\.txt: no such file"):
        CUB.load_attributes(folder, any_size=True)
    (folder.parent / "attributes.txt").unlink()
    with pytest.raises(DataError, match=r"no attributes\.txt here, in attributes/ or beside this folder"):
        CUB.load_attributes(folder, any_size=True)


def test_another_number_of_attributes_is_refused(folder):
    with pytest.raises(DataError, match=r"4 attributes, but CUB-200-2011 has 312"):
        CUB.load_attributes(folder)


def test_a_set_without_attributes_says_so(replica):
    with pytest.raises(DataError, match="Food-101 has no attributes"):
        official_dataset("food101").load_attributes(replica("food101"))
