import subprocess
import sys

import pytest

from queryopt.errors import CheckpointError, UsageError
from queryopt.train.run_files import BEST, CONFIG, LAST, check_unused, find_checkpoint


def test_the_best_weights_come_before_the_last_ones(tmp_path):
    (tmp_path / LAST).touch()
    assert find_checkpoint(tmp_path) == tmp_path / LAST
    (tmp_path / BEST).touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / BEST
    assert find_checkpoint(tmp_path / LAST) == tmp_path / LAST


def test_what_is_no_run_is_named_with_what_may_be_meant(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / BEST).touch()
    with pytest.raises(CheckpointError, match=r"no run folder: neither .* is in it; runs in it: .*/a$"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such file or folder; did you mean a\?"):
        find_checkpoint(tmp_path / "aa")


def test_a_run_is_gone_on_with_but_not_begun_twice(tmp_path):
    check_unused(tmp_path / "new", resume=False)
    (tmp_path / CONFIG).touch()
    check_unused(tmp_path, resume=True)
    with pytest.raises(UsageError, match=rf"already holds a run \({CONFIG}\)"):
        check_unused(tmp_path, resume=False)
    with pytest.raises(UsageError, match="is a file"):
        check_unused(tmp_path / CONFIG, resume=True)


def test_torch_is_not_needed():
    code = "import sys, queryopt.train.run_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
