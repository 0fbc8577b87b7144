"""What holds for every official data set, on a replica of each."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from queryopt.errors import DataError, UsageError
from queryopt.train.datasets import Counts, dataset_names, official_dataset
from queryopt.train.presets import PRESETS, preset_config

NAMES = ("aircraft", "cub200", "food101", "nabirds", "vegfru")
LISTS = {  # a file of each that has a row a picture
    "aircraft": "data/images_variant_trainval.txt",
    "cub200": "images.txt",
    "food101": "meta/train.txt",
    "nabirds": "images.txt",
    "vegfru": "vegfru_list/vegfru_train.txt",
}
every = pytest.mark.parametrize("name", NAMES)


def contents(splits):
    return [(part.root, part.classes, part.paths, part.labels.tolist()) for part in (splits.train, splits.test)]


def test_the_papers_five_are_there():
    assert dataset_names() == NAMES
    with pytest.raises(UsageError, match=r"cub.*did you mean cub200\?"):
        official_dataset("cub20")


def test_a_module_that_defines_one_is_all_that_a_new_one_takes(tmp_path):
    (tmp_path / "toys.py").write_text(
        "from queryopt.train.datasets.official import Counts, OfficialDataset\n"
        "DATASET = OfficialDataset('toys', 'Toys', 'toys', 'list.txt', 'home', {'': Counts(2, 2, 0)}, read=None)\n"
    )
    code = (
        "import sys, queryopt.train.datasets as package; package.__path__.append(sys.argv[1]);"
        "from queryopt.train.sources import official_source; print(official_source('toys:/data').dataset.title);"
        "from queryopt.train.cli import main; main(['--help-all'], standalone_mode=False)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Toys\n")
    assert "nabirds, toys, vegfru" in done.stdout


@every
def test_every_picture_is_there_with_its_class(name, replica):
    folder = replica(name)
    splits = official_dataset(name).load(folder, any_size=True)
    assert (len(splits.train), len(splits.test)) == (9, 6)
    assert splits.train.counts().tolist() == [3, 3, 3]
    assert splits.test.counts().tolist() == [2, 2, 2]
    assert splits.train.classes == splits.test.classes
    assert not set(splits.train.paths) & set(splits.test.paths)
    # A replica's classes have colours: each label's pictures look alike, in both parts.
    dominant = {}
    for part in (splits.train, splits.test):
        for index in range(len(part)):
            pixels = np.asarray(Image.open(part.path(index)), float).mean((0, 1))
            dominant.setdefault(int(part.labels[index]), set()).add(tuple((pixels > 120).tolist()))
    assert all(len(colours) == 1 for colours in dominant.values())
    assert len(set.union(*dominant.values())) == 3


@every
def test_the_folder_or_the_one_that_holds_it(name, replica):
    folder = replica(name)
    dataset = official_dataset(name)
    assert contents(dataset.load(folder, any_size=True)) == contents(dataset.load(folder.parent, any_size=True))


@every
def test_other_counts_are_refused_with_what_was_found_and_expected(name, replica):
    dataset = official_dataset(name)
    with pytest.raises(DataError, match=r"3 classes, 9 training and 6 test pictures, but") as refused:
        dataset.load(replica(name))
    assert f"{dataset.title} has {dataset.counts['']}" in str(refused.value)
    assert "--any-size" in str(refused.value)


@every
def test_a_folder_without_the_set_says_what_is_missing_and_where_to_get_it(name, tmp_path):
    dataset = official_dataset(name)
    with pytest.raises(DataError, match=r"is not here: there is neither") as refused:
        dataset.load(tmp_path)
    assert dataset.sign in str(refused.value)
    assert dataset.folder in str(refused.value)
    assert dataset.home in str(refused.value) or "--download" in str(refused.value)
    with pytest.raises(DataError, match=r"moved: no such folder; give the folder"):
        dataset.load(tmp_path / "moved")


@every
def test_crlf_a_byte_order_mark_and_blanks_change_nothing(name, replica):
    folder = replica(name)
    dataset = official_dataset(name)
    before = contents(dataset.load(folder, any_size=True))
    for path in folder.rglob("*.txt"):
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\xef\xbb\xbf" + b" \t\r\n".join(lines) + b"\r\n  \r\n")
    assert contents(dataset.load(folder, any_size=True)) == before


@every
def test_a_picture_that_is_not_there_is_named_with_file_and_line(name, replica):
    folder = replica(name)
    dataset = official_dataset(name)
    train = dataset.load(folder, any_size=True).train
    train.path(1).unlink()
    listed = LISTS[name]
    with pytest.raises(DataError) as refused:
        dataset.load(folder, any_size=True)
    message = str(refused.value)
    line = int(re.search(rf"{re.escape(str(folder / listed))}, line (\d+): ", message)[1])
    assert train.paths[1].removeprefix("images/").split("/")[-1].split(".")[0] in message
    assert train.path(1).stem in (folder / listed).read_text().splitlines()[line - 1]
    assert "no such picture" in message
    assert "others" not in message
    shutil.rmtree(train.path(1).parent)
    with pytest.raises(DataError, match=r"no such picture in .* \(and \d+ others of its lists\)"):
        dataset.load(folder, any_size=True)


@every
def test_a_list_that_is_missing_empty_or_no_text(name, replica):
    folder = replica(name)
    dataset = official_dataset(name)
    path = folder / LISTS[name]
    whole = path.read_bytes()
    path.write_bytes(b"\n \n")
    with pytest.raises(DataError, match=rf"{path.name}: no rows in it"):
        dataset.load(folder, any_size=True)
    path.write_bytes(whole.replace(b"\n", b"\n\0", 1))
    with pytest.raises(DataError, match=rf"{path.name}, line 2: holds a zero byte"):
        dataset.load(folder, any_size=True)
    if path != folder / dataset.sign:
        path.unlink()
        with pytest.raises(DataError, match=rf"{path.name}: no such file"):
            dataset.load(folder, any_size=True)


@every
def test_a_picture_named_twice_is_refused_with_both_lines(name, replica):
    folder = replica(name)
    path = folder / LISTS[name]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[3]]))
    with pytest.raises(DataError, match=rf"{path.name}, line {len(lines) + 1}: .* line 4 already"):
        official_dataset(name).load(folder, any_size=True)


@every
def test_an_option_that_there_is_not(name, replica):
    with pytest.raises(UsageError, match=rf"{name}\+all: no option all; there are any-size"):
        official_dataset(name).load(replica(name), "all", any_size=True)


def test_the_official_sizes():
    assert {name: official_dataset(name).counts for name in NAMES} == {
        "cub200": {"": Counts(200, 5_994, 5_794)},
        "aircraft": {"": Counts(100, 6_667, 3_333)},
        "food101": {"": Counts(101, 75_750, 25_250)},
        "nabirds": {"": Counts(555, 23_929, 24_633)},
        "vegfru": {"": Counts(292, 29_200, 116_931), "val": Counts(292, 43_800, 116_931)},
    }


@every
def test_each_has_the_papers_settings(name):
    expected = {
        "cub200": (40, 30, 2000, (30,)),
        "aircraft": (40, 30, 2000, (30,)),
        "food101": (120, 10, 2000, (90,)),
        "nabirds": (50, 30, 4000, (30,)),
        "vegfru": (50, 30, 4000, (30,)),
    }
    assert f"paper-{name}" in PRESETS
    config = preset_config(f"paper-{name}")
    assert (config.iterations, config.epochs, config.samples, config.lr_steps) == expected[name]
    assert (config.optimizer, config.schedule, config.lr, config.weight_decay) == ("sgd", "steps", 3e-4, 1e-4)
    assert (config.batch, config.gamma, config.scale_gamma, config.codes, config.hold) == (16, 200.0, False, "noise", 0)
    assert (config.seed, config.weights, config.validation_fraction) == (42, "imagenet", 0.0)
    assert (config.network.backbone, config.network.image_size, config.network.dim) == ("resnet50", 224, 384)
    assert config.network.bits * config.network.branches == 96
