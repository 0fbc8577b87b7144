import os
import resource
import signal
import stat
import subprocess
import sys

import pytest

from queryopt.errors import UsageError
from queryopt.files import leftovers, replacing


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new" * 100_000)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" * 100_000
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")
    code = f"""
import os, signal
from queryopt.files import replacing
with replacing({str(path)!r}) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(leftovers(path)) == 1
    with replacing(path) as file:  # the next one removes what it left, and not what another is writing
        file.write(b"new")
        [mine] = leftovers(path)
        with replacing(path):
            assert mine in leftovers(path)
            assert len(leftovers(path)) == 2
    assert os.listdir(tmp_path) == ["out.jsonl"]
    assert path.read_bytes() == b"new"


def test_what_killed_writers_leave_can_be_found(tmp_path):
    path = tmp_path / "a[1].npz"
    (tmp_path / ".a[1].npz.mine").touch()
    (tmp_path / ".a1.npz.12345678.tmp").touch()
    with replacing(path) as file:
        assert [left.stat().st_ino for left in leftovers(path)] == [os.fstat(file.fileno()).st_ino]
    assert leftovers(path) == []


def test_a_system_that_has_no_room_is_not_the_paths_fault(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"), replacing(tmp_path / "out"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_rights_are_those_of_a_new_file_or_of_the_one_replaced(tmp_path):
    umask = os.umask(0o022)
    try:
        with replacing(tmp_path / "new"):
            pass
    finally:
        os.umask(umask)
    old = tmp_path / "old"
    old.touch(0o600)
    with replacing(old):
        pass
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")] == [0o644, 0o600]


def test_links_are_followed_and_devices_written_to(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    with replacing("/dev/null") as file:
        file.write(b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_missing_folder_and_a_folder_are_refused(tmp_path):
    with (
        pytest.raises(UsageError, match="no-folder/out: can't be written: No such file"),
        replacing(tmp_path / "no-folder" / "out"),
    ):
        pass
    with pytest.raises(UsageError, match="a folder of that name"), replacing(tmp_path):
        pass


def test_only_a_file_that_begins_as_it_should_is_replaced(tmp_path):
    for old in (None, b"", b"{old"):
        path = tmp_path / "out.json"
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)
        with replacing(path, over=b"{") as file:
            file.write(b"{new")
        assert path.read_bytes() == b"{new"
    path.write_bytes(b"SQLite format 3")
    with pytest.raises(UsageError, match=r"out\.json: the file there is none that"), replacing(path, over=b"{"):
        pass
    assert path.read_bytes() == b"SQLite format 3"
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    code = """
import resource
from queryopt.files import replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with replacing("out") as file:
        file.write(bytes(100_000))
except OSError as error:
    print(error.filename, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "out File too large\n"
    assert os.listdir(tmp_path) == []
