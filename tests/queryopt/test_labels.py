from pathlib import Path

import pytest

from queryopt.errors import UsageError
from queryopt.labels import LabelRule, sub_folders


def made(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        (b"a.jpg", (None, None, None)),
        (b"cats/a.jpg", (b"cats", b"cats", b"cats")),
        (b"cats/big/a.jpg", (b"cats", b"cats/big", b"cats/big")),
        (b"cats/big/wild/a.jpg", (b"cats", b"cats/big", b"cats/big/wild")),
        (b"\xff/a", (b"\xff", b"\xff", b"\xff")),
    ],
)
def test_a_label_is_the_first_folders(path: bytes, labels: tuple[bytes | None, ...]) -> None:
    assert tuple(LabelRule(depth).label_of(path) for depth in (1, 2, 99)) == labels


def test_train_and_test_beside_it_are_no_labels(tmp_path: Path) -> None:
    rule = LabelRule.of_folder(made(tmp_path, "train/cats/big", "val/cats", "test/dogs"))
    assert rule.name(b"train/cats/big/a.jpg") == rule.name(b"val/cats/a.jpg") == "cats"
    assert rule.name(b"train/a.jpg") is None
    assert LabelRule.of_folder(tmp_path, 2).name(b"train/cats/big/a.jpg") == "cats/big"


@pytest.mark.parametrize("folders", [["train", "tram"], ["train/steam", "bus"], ["test/a", "val/a"]])
def test_classes_may_be_called_so(folders: list[str], tmp_path: Path) -> None:
    rule = LabelRule.of_folder(made(tmp_path, *folders))
    assert {rule.name(f"{folder}/a.jpg".encode()) for folder in folders} == {f.split("/")[0] for f in folders}


def test_a_folder_that_is_not_there_has_no_parts(tmp_path: Path) -> None:
    assert LabelRule.of_folder(tmp_path / "gone", 2) == LabelRule(2)


def test_folders_without_pictures_by_their_names_are_none(tmp_path: Path) -> None:
    made(tmp_path, "b", "a", ".thumbnails", "@eaDir")
    (tmp_path / "up").symlink_to(tmp_path.parent)
    (tmp_path / "file.jpg").touch()
    assert sub_folders(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("depth", [0, -1, True, 1.5, "2"])
def test_a_depth_is_a_number_of_folders(depth: object) -> None:
    with pytest.raises(UsageError, match="label_depth is"):
        LabelRule(depth)  # type: ignore[arg-type]


def test_how_it_is_said() -> None:
    assert [str(LabelRule(depth)) for depth in (1, 2, 99)] == ["first folder", "first two folders", "every folder"]
