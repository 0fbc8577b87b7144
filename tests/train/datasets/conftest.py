"""Tiny replicas of the official layouts: a handful of classes, real JPEGs."""

import numpy as np
import pytest
from PIL import Image

COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60))


def picture(path, label, number, size=40):
    rng = np.random.default_rng((label, number))
    pixels = np.clip(np.array(COLOURS[label]) + rng.normal(0, 30, (size, size, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def cub200(root, train=3, test=2):
    """Three birds; attributes.txt beside the folder, as in the archive."""
    folder = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    images, labels, splits, attributes = [], [], [], []
    for label, name in enumerate(names):
        for number in range(train + test):
            picture_id = len(images) + 1
            path = f"{name}/{name[4:]}_{number:04d}_{picture_id + 79}.jpg"
            picture(folder / "images" / path, label, number)
            images.append(f"{picture_id} {path}")
            labels.append(f"{picture_id} {label + 1}")
            splits.append(f"{picture_id} {int(number < train)}")
            for attribute in range(1, 5):
                present = int(attribute == label + 1)
                attributes.append(f"{picture_id} {attribute} {present} {1 + (picture_id + attribute) % 4} 12.7")
    write(folder / "images.txt", images)
    write(folder / "image_class_labels.txt", labels)
    write(folder / "train_test_split.txt", splits)
    write(folder / "classes.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    write(folder / "bounding_boxes.txt", [f"{i} 0.0 0.0 40.0 40.0" for i in range(1, len(images) + 1)])
    attributes[2] += " 0 0"  # as some rows of the official file
    write(folder / "attributes" / "image_attribute_labels.txt", attributes)
    write(folder / "attributes" / "certainties.txt", ["1 not visible", "2 guessing", "3 probably", "4 definitely"])
    write(
        root / "attributes.txt",
        [
            "1 has_bill_shape::curved_(up_or_down)",
            "2 has_bill_shape::dagger",
            "3 has_wing_color::blue",
            "4 has_wing_color::brown",
        ],
    )
    return folder


def aircraft(root, train=3, test=2):
    folder = root / "fgvc-aircraft-2013b"
    data = folder / "data"
    names = ["707-320", "Boeing 717", "F/A-18"]
    parts = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names):
        for number in range(train + test):
            picture_id = f"{label * 100 + number + 7:07d}"
            picture(data / "images" / f"{picture_id}.jpg", label, number)
            part = "test" if number >= train else "val" if number == 0 else "train"
            parts[part].append(f"{picture_id} {name}")
    write(data / "variants.txt", names)
    for part, lines in (*parts.items(), ("trainval", sorted(parts["train"] + parts["val"]))):
        write(data / f"images_variant_{part}.txt", lines)
    return folder


def food101(root, train=3, test=2):
    folder = root / "food-101"
    names = ["apple_pie", "baby_back_ribs", "baklava"]
    parts = {"train": [], "test": []}
    for label, name in enumerate(names):
        for number in range(train + test):
            picture(folder / "images" / name / f"{1005649 + number}.jpg", label, number)
            parts["train" if number < train else "test"].append(f"{name}/{1005649 + number}")
    for part, lines in parts.items():
        write(folder / "meta" / f"{part}.txt", lines)
    write(folder / "meta" / "classes.txt", names)
    write(folder / "meta" / "labels.txt", ["Apple pie", "Baby back ribs", "Baklava"])
    return folder


def nabirds(root, train=3, test=2):
    """Three categories in use among five names, two of which are called the same."""
    folder = root / "nabirds"
    images, labels, splits = [], [], []
    for label, number_of_class in enumerate((817, 295, 1010)):
        for number in range(train + test):
            picture_id = f"{label:08x}-{number:04x}-4c1f-9a71-{number_of_class:012x}"
            path = f"{number_of_class:04d}/{picture_id.replace('-', '')}.jpg"
            picture(folder / "images" / path, label, number)
            images.append(f"{picture_id} {path}")
            labels.append(f"{picture_id} {number_of_class}")
            splits.append(f"{picture_id} {int(number < train)}")
    write(folder / "images.txt", images)
    write(folder / "image_class_labels.txt", labels)
    write(folder / "train_test_split.txt", splits)
    names = [
        "0 Birds",
        "12 Common Eider",
        "295 Common Eider",
        "817 American Robin (Adult)",
        "1010 Yellow-billed Magpie",
    ]
    write(folder / "classes.txt", names)
    write(folder / "hierarchy.txt", ["12 0", "295 12", "817 0", "1010 0"])
    return folder


def vegfru(root, train=3, test=2):
    folder = root / "vegfru"
    parts = {"train": [], "val": [], "test": []}
    for label, name in enumerate(("veg200_images/arugula", "veg200_images/lemon", "fru92_images/lemon")):
        for number in range(train + test + 1):
            path = f"{name}/{name[0]}_{label:02d}_{number:04d}.jpg"
            picture(folder / path, label, number)
            part = "train" if number < train else "val" if number == train else "test"
            parts[part].append(f"{path} {label}")
    for part, lines in parts.items():
        write(folder / "vegfru_list" / f"vegfru_{part}.txt", lines)
    return folder


MAKERS = {f.__name__: f for f in (cub200, aircraft, food101, nabirds, vegfru)}


@pytest.fixture
def replica(tmp_path):
    """replica(name, …) makes one below tmp_path and returns the folder that its archive has."""
    return lambda name, **options: MAKERS[name](tmp_path, **options)


@pytest.fixture(scope="session")
def make_cub200():
    """make_cub200(folder, train, test) makes one there: for tests that share it."""
    return cub200


@pytest.fixture
def edit():
    """edit(path, line, text) puts `text` in the place of a line, by its number from 1; None removes it."""

    def change(path, line, text):
        lines = path.read_text().splitlines()
        lines[line - 1 : line] = [] if text is None else [text]
        path.write_text("".join(f"{one}\n" for one in lines))

    return change
