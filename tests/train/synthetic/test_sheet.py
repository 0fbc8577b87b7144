import shutil

import numpy as np
import pytest
from PIL import Image

from queryopt.errors import DataError, UsageError
from queryopt.train.data import load_image_folder
from queryopt.train.synthetic import contact_sheet


def test_the_first_pictures_of_each_class_in_rows(birds, tmp_path):
    contact_sheet(birds, tmp_path / "sheet.png", columns=4, rows=5, per_class=2, thumbnail=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (3 * 32, 4 * 32, 3)  # 6 classes x 2 fill 3 of 5 rows
    train = load_image_folder(birds).train
    for cell, index in enumerate([0, 1, 3, 4, 6, 7]):
        y, x = cell // 4 * 32, cell % 4 * 32
        with Image.open(train.path(index)) as picture:
            np.testing.assert_array_equal(pixels[y : y + 32, x : x + 32], np.asarray(picture))


def test_what_can_not_be_read_is_grey(birds, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(birds, copy)
    load_image_folder(copy).train.path(0).write_bytes(b"")
    contact_sheet(copy, tmp_path / "sheet.png", columns=2, rows=1, per_class=2, thumbnail=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels[:, :32] == 128).all()
    assert not (pixels[:, 32:] == 128).all()


def test_errors(birds, tmp_path):
    with pytest.raises(UsageError, match="name the contact sheet"):
        contact_sheet(birds, tmp_path / "sheet.xyz")
    with pytest.raises(UsageError, match="each is at least 1"):
        contact_sheet(birds, tmp_path / "sheet.png", columns=0)
    with pytest.raises(DataError, match="can't be written"):
        contact_sheet(birds, tmp_path / "nowhere/sheet.png")
    with pytest.raises(DataError, match="no such folder"):
        contact_sheet(tmp_path / "nowhere", tmp_path / "sheet.png")
