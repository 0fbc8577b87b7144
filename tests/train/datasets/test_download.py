"""Downloads from a server on this machine: torchvision's own code, at another address."""

import hashlib
import http.server
import json
import tarfile
import threading
from functools import partial

import pytest
import torchvision

from queryopt.errors import DataError, MissingError, UsageError
from queryopt.train.datasets import official_dataset
from queryopt.train.datasets.tables import file_lines

CLASSES = {"aircraft": torchvision.datasets.FGVCAircraft, "food101": torchvision.datasets.Food101}


CLASS_NAMES = ("apple_pie", "baby_back_ribs", "baklava")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, request):
    """The address of a folder that is served, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(getattr(request, "param", Quiet), directory=folder)
    ) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", folder
        served.shutdown()
        thread.join()


@pytest.fixture(params=sorted(CLASSES))
def archive(request, replica, server, monkeypatch):
    """(name, archive): a replica's archive where torchvision looks for the official one."""
    name = request.param
    address, served = server
    made = replica(name)
    if name == "food101":
        for part in ("train", "test"):  # torchvision reads these
            lines = [line for line in file_lines(made / "meta" / f"{part}.txt") if line]
            of_class = {name: [one for one in lines if one.startswith(f"{name}/")] for name in CLASS_NAMES}
            (made / "meta" / f"{part}.json").write_text(json.dumps(of_class))
    path = served / f"{made.name}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(made, made.name)
    monkeypatch.setattr(CLASSES[name], "_URL", f"{address}/{path.name}")
    if name == "food101":
        monkeypatch.setattr(CLASSES[name], "_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return name, path


def test_a_set_is_downloaded_once(archive, tmp_path, capsys):
    name, path = archive
    dataset = official_dataset(name)
    root = tmp_path / "data"
    dataset.fetch(root)
    assert len(dataset.load(root, any_size=True).train) == 9
    assert capsys.readouterr().out == ""
    path.unlink()
    (root / path.name).unlink()
    dataset.fetch(root)  # would fail now, if it tried
    dataset.fetch(root / dataset.folder)


def test_a_damaged_archive_that_was_there_is_named_and_kept(archive, tmp_path, monkeypatch):
    name, path = archive
    (tmp_path / "data").mkdir()
    kept = tmp_path / "data" / path.name
    kept.write_bytes(path.read_bytes()[:2000])
    if name == "food101":  # it has a checksum, so torchvision itself downloads it again
        official_dataset(name).fetch(tmp_path / "data")
        return
    with pytest.raises(DataError, match=rf"{path.name}: damaged.*: remove it and download again"):
        official_dataset(name).fetch(tmp_path / "data")
    assert kept.exists()
    assert list((tmp_path / "data").iterdir()) == [kept]


def test_an_address_without_the_archive(archive, tmp_path):
    name, path = archive
    path.unlink()
    with pytest.raises(MissingError, match=r"can't download .* from http.*fetch that file where there is a network"):
        official_dataset(name).fetch(tmp_path / "data")


class Breaking(Quiet):
    """Promises a whole archive and, at first, sends a part of it."""

    sent: int | None = 700

    def copyfile(self, source, target):
        target.write(source.read(self.sent))


@pytest.mark.parametrize("server", [Breaking], indirect=True)
def test_after_a_connection_that_broke_the_next_try_starts_anew(archive, tmp_path, monkeypatch):
    name, path = archive
    with pytest.raises(DataError, match=rf"{path.name}: damaged.*: download it again"):
        official_dataset(name).fetch(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    monkeypatch.setattr(Breaking, "sent", None)
    official_dataset(name).fetch(tmp_path / "data")
    assert len(official_dataset(name).load(tmp_path / "data", any_size=True).train) == 9


def test_a_part_of_an_earlier_extraction_is_no_data_set(archive, tmp_path):
    name, _ = archive
    dataset = official_dataset(name)
    (tmp_path / "data" / dataset.folder).mkdir(parents=True)
    with pytest.raises(DataError, match=rf"{dataset.folder}: there already, but without {dataset.sign}.*Remove it"):
        dataset.fetch(tmp_path / "data")


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_network(name, tmp_path, monkeypatch):
    monkeypatch.setattr(CLASSES[name], "_URL", "http://127.0.0.1:1/set.tar.gz")  # nobody listens there
    with pytest.raises(MissingError, match=r"can't download .*127\.0\.0\.1:1.*extract it into .*leave --download out"):
        official_dataset(name).fetch(tmp_path / "data")


@pytest.mark.parametrize("name", ["cub200", "nabirds", "vegfru"])
def test_sets_that_are_not_downloaded_for_anyone(name, tmp_path, replica):
    dataset = official_dataset(name)
    with pytest.raises(UsageError, match=r"can't be downloaded for you: get it from https://"):
        dataset.fetch(tmp_path)
    replica(name)
    dataset.fetch(tmp_path)  # there already


def test_the_pictures_and_labels_that_torchvision_reads(archive, tmp_path):
    name, _ = archive
    dataset = official_dataset(name)
    dataset.fetch(tmp_path / "data")
    mine = dataset.load(tmp_path / "data", any_size=True)
    for part, images in (("trainval" if name == "aircraft" else "train", mine.train), ("test", mine.test)):
        theirs = CLASSES[name](tmp_path / "data", split=part)
        assert theirs.classes == list(images.classes)
        found = {str(path): label for path, label in zip(theirs._image_files, theirs._labels, strict=True)}
        assert found == {str(images.path(i)): int(images.labels[i]) for i in range(len(images))}
