import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
from PIL import Image

from queryopt.errors import DataError, UsageError
from queryopt.train.data import load_image_folder
from queryopt.train.synthetic import (
    ATTRIBUTES,
    BirdsConfig,
    absolute_data,
    generate,
    load_attributes,
    resolve_data,
)
from queryopt.train.synthetic.attributes import choose_classes

SMALL = {"classes": 6, "train_per_class": 3, "test_per_class": 2, "size": 32, "seed": 1}


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_layout_is_that_of_a_class_folder(birds):
    splits = load_image_folder(birds)
    assert len(splits.train) == 18
    assert len(splits.test) == 12
    assert splits.train.counts().tolist() == [3] * 6
    assert splits.test.counts().tolist() == [2] * 6
    assert splits.train.classes[0].startswith("000.")
    for index in range(18):
        with Image.open(splits.train.path(index)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def test_attributes_match_the_classes(birds):
    attributes = load_attributes(birds)
    assert list(attributes) == list(load_image_folder(birds).train.classes)
    assert list(attributes.values()) == list(choose_classes(6, 1))
    for name, values in attributes.items():
        assert values["back_colour"] in name
        assert f"{values['breast_colour']}_breasted" in name
        assert ("crested" in name) == (values["crown_shape"] == "crested")
        assert ("capped" in name) == (values["crown_colour"] != "plain")
    with open(birds / "attributes.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", *ATTRIBUTES]
    assert len(rows) == 6


def test_a_picture_is_of_its_class_and_no_two_are_equal(birds):
    found = digests(birds)
    pictures = [digest for name, digest in found.items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures) == 30


def test_another_process_makes_the_same_set(birds, tmp_path):
    code = f"from queryopt.train.synthetic import generate; generate({str(tmp_path)!r}, 6, 3, 2, 32, 1)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert digests(tmp_path) == digests(birds)


def test_a_larger_set_holds_the_smaller(birds, tmp_path):
    generate(tmp_path, **SMALL | {"classes": 7, "train_per_class": 4})
    larger = digests(tmp_path)
    assert all(larger[name] == digest for name, digest in digests(birds).items() if name.endswith(".jpg"))


def test_another_seed_makes_another_set(birds, tmp_path):
    generate(tmp_path, **SMALL | {"seed": 2})
    assert not set(digests(tmp_path).values()) & set(digests(birds).values())


def test_a_finished_set_is_left_as_it_is(birds):
    before = {path: path.stat().st_mtime_ns for path in birds.rglob("*.jpg")}
    bars = []
    done = generate(birds, **SMALL, progress=lambda *bar: bars.append(bar))
    assert (done.folder, done.made, done.kept) == (birds, 0, 30)
    assert {path: path.stat().st_mtime_ns for path in birds.rglob("*.jpg")} == before
    assert bars == []  # nothing to do, no bar


def test_a_half_made_set_is_completed(birds, tmp_path):
    generate(tmp_path, **SMALL)
    lost = sorted(tmp_path.rglob("*.jpg"))[::4]
    for path in lost[1:]:
        path.unlink()
    lost[0].write_bytes(b"")  # as a power failure leaves it
    counted = []

    @contextmanager
    def progress(description, total, unit):
        counted.append((description, total))
        yield lambda count=1, note=None: counted.append(count)

    done = generate(tmp_path, **SMALL, progress=progress)
    assert (done.made, done.kept) == (len(lost), 30 - len(lost))
    assert counted == [("drawing birds", len(lost)), *[1] * len(lost)]
    assert digests(tmp_path) == digests(birds)


def test_a_killed_run_is_completed(tmp_path):
    code = f"from queryopt.train.synthetic import generate; generate({str(tmp_path)!r}, 6, 50, 2, 32, 1)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while len(list(tmp_path.rglob("*.jpg"))) < 20:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    there = list(tmp_path.rglob("*.jpg"))
    for path in there:
        with Image.open(path) as image:
            image.load()  # whole, or not there
    done = generate(tmp_path, 6, 50, 2, 32, 1)
    assert done.kept == len(there)
    assert len(load_image_folder(tmp_path).train) == 300
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")] == []


def test_two_at_once_take_turns(birds, tmp_path):
    code = f"from queryopt.train.synthetic import generate; print(generate({str(tmp_path)!r}, 6, 3, 2, 32, 1).made)"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = [int(run.communicate()[0]) for run in runs]
    assert sorted(made) == [0, 30]
    assert digests(tmp_path) == digests(birds)


def test_a_set_of_another_configuration_is_refused(birds):
    before = digests(birds)
    with pytest.raises(
        DataError, match=r"another generated data set \(classes=6, size=32, asked for: classes=7, size=64\)"
    ):
        generate(birds, **SMALL | {"classes": 7, "size": 64})
    assert digests(birds) == before


def test_a_set_of_another_version_is_refused(birds, tmp_path):
    config = json.loads((birds / "birds.json").read_text())
    (tmp_path / "birds.json").write_text(json.dumps(config | {"version": 0}))
    with pytest.raises(DataError, match="version=0, asked for: version=1"):
        generate(tmp_path, **SMALL)


def test_somebodys_folder_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"not empty, and no birds.json in it \(there is holiday.jpg\)"):
        generate(tmp_path, **SMALL)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "birds.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"birds\.json: damaged|holds another"):
        generate(tmp_path, **SMALL)


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(DataError, match="x: not a folder"):
        generate(tmp_path / "x", **SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", 1), ("train", 0), ("test", -1), ("size", 513), ("size", 8), ("seed", -1), ("size", 64.0)],
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        BirdsConfig(**{name: value})


def test_attributes_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match=r"attributes\.csv: No such file"):
        load_attributes(tmp_path)
    (tmp_path / "attributes.csv").write_text("class,beak\n001.wren,short\n002.owl\n")
    with pytest.raises(DataError, match=r"attributes\.csv, line 3: a class and a value"):
        load_attributes(tmp_path)
    (tmp_path / "attributes.csv").write_bytes(b"class,beak\n\xff,short\n")
    with pytest.raises(DataError, match=r"attributes\.csv: .*decode"):
        load_attributes(tmp_path)


def test_a_path_is_taken_as_it_is(birds):
    assert resolve_data(birds) == birds
    assert resolve_data(str(birds)) == birds


def test_synthetic_birds_are_generated_once(tmp_path):
    text = "synthetic:birds?classes=2&train=2&test=1&size=16&seed=4"
    folder = resolve_data(text, tmp_path)
    assert folder == tmp_path / "birds-2x2+1-16px-seed4"
    assert len(load_image_folder(folder).train) == 4
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")}
    assert resolve_data(text, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jpg")} == before


def test_the_folder_can_be_chosen(tmp_path):
    assert resolve_data(f"synthetic:birds?classes=2&train=1&test=0&size=16&folder={tmp_path}/a b") == tmp_path / "a b"
    assert len(load_image_folder(tmp_path / "a b", test_fraction=0).train) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synthetic:brids", "no such generated data set; there is synthetic:birds; did you mean birds?"),
        ("synthetic:", "no such generated data set"),
        ("synthetic:birds?clases=3", "no option clases; .*; did you mean classes?"),
        ("synthetic:birds?classes=many", "classes=many: a whole number is needed"),
        ("synthetic:birds?classes=-3", "classes=-3: a whole number is needed"),
        ("synthetic:birds?classes=", "classes=: a whole number is needed"),
        ("synthetic:birds?folder=", "folder=: a path is needed"),
        ("synthetic:birds?classes", "options are written name=value"),
        ("synthetic:birds?size=32&size=64", "the option size is given twice"),
        ("synthetic:birds?classes=1", "classes is 1: a whole number from 2"),
    ],
)
def test_wrong_names_and_values_are_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        resolve_data(text, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", [None, "a b+c%&=é", os.fsdecode(b"caf\xe9")])
def test_a_generated_set_is_found_again_from_another_folder(tmp_path, monkeypatch, where):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    text = "synthetic:birds?classes=2&train=1&test=0&size=16"
    if where is not None:
        text += "&" + urlencode({"folder": where}, errors="surrogateescape")
    absolute = absolute_data(text)
    folder = resolve_data(text)
    assert len(load_image_folder(folder).train) == 2
    before = digests(tmp_path / "one")
    monkeypatch.chdir(tmp_path / "other")
    assert resolve_data(absolute) == tmp_path / "one" / folder
    assert absolute_data(absolute) == absolute
    assert os.listdir(tmp_path / "other") == []
    assert digests(tmp_path / "one") == before


def test_a_path_becomes_absolute_and_a_wrong_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_data("photos/") == absolute_data(tmp_path / "photos") == str(tmp_path / "photos")
    with pytest.raises(UsageError, match="did you mean birds"):
        absolute_data("synthetic:bird")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="photos: no such folder"):
        resolve_data(tmp_path / "photos")
    with pytest.raises(DataError, match=r"synthetik:birds: no such folder.*did you mean synthetic:birds\?"):
        resolve_data("synthetik:birds")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="file: not a folder"):
        resolve_data(tmp_path / "file")
