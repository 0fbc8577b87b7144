import json
import os

import pytest
import torch

from queryopt.errors import CheckpointError, UsageError
from queryopt.train.checkpoint import BEST, CONFIG, LAST, METRICS, Checkpoint, read_run_config
from queryopt.train.presets import preset_config
from queryopt.train.runs import Position, RunFolder, RunState, stopped_early

CONFIGURATION = preset_config("tiny")


def state():
    optimizer = torch.optim.AdamW([torch.ones(3, requires_grad=True)])
    return RunState(
        weights={"a": torch.arange(3.0)},
        optimizer=optimizer.state_dict(),
        codes=torch.ones(2, 4),
        outputs=torch.full((2, 4), float("nan")),
        position=Position(2, 1, 5),
        sums=[1.0, 2.0, 3.0],
        data="abc",
        computed_on="2 threads",
        best={"iteration": 1, "map": 0.5},
        skipped={"a.jpg": "cut off"},
        seconds=1.5,
    )


def test_last_pt_gives_back_what_was_saved(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        assert folder.load_last() is None
        folder.save_last(state(), CONFIGURATION)
        loaded, config = folder.load_last()
    assert config == CONFIGURATION
    expected = state()
    assert torch.equal(loaded.weights["a"], expected.weights["a"])
    assert torch.equal(loaded.outputs, expected.outputs) or bool(loaded.outputs.isnan().all())
    for name in ("position", "sums", "data", "computed_on", "best", "skipped", "seconds"):
        assert getattr(loaded, name) == getattr(expected, name)


def test_a_run_that_stopped_early_is_known_by_its_last_pt(tmp_path):
    checkpoint = Checkpoint(CONFIGURATION, {}, tmp_path / BEST)
    assert stopped_early(checkpoint) is None
    saved = state()
    with RunFolder(tmp_path) as folder:
        for position, known in ((Position(1, 0, 5), (1, 2)), (Position(2), None)):
            saved.position = position
            folder.save_last(saved, CONFIGURATION)
            assert stopped_early(checkpoint) == known
    (tmp_path / LAST).write_bytes(b"PK")
    assert stopped_early(checkpoint) is None


def test_last_pt_of_a_newer_queryopt_or_of_something_else(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.save_last(state(), CONFIGURATION)
        values = torch.load(tmp_path / LAST, weights_only=True)
        torch.save({**values, "queryopt.last.format_version": 99}, tmp_path / LAST)
        with pytest.raises(CheckpointError, match="99"):
            folder.load_last()
        del values["codes"]
        torch.save(values, tmp_path / LAST)
        with pytest.raises(CheckpointError, match="codes"):
            folder.load_last()
        torch.save([1], tmp_path / LAST)
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            folder.load_last()


@pytest.mark.parametrize(
    "key", ["model", "optimizer", "codes", "outputs", "sums", "data", "best", "skipped", "seconds"]
)
def test_last_pt_that_holds_something_else_where_it_matters(tmp_path, key):
    with RunFolder(tmp_path) as folder:
        folder.save_last(state(), CONFIGURATION)
        values = torch.load(tmp_path / LAST, weights_only=True)
        torch.save({**values, key: None}, tmp_path / LAST)
        with pytest.raises(CheckpointError, match=rf"last\.pt: damaged .*{key} is NoneType.* start the run anew"):
            folder.load_last()


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_malicious_last_pt_is_never_executed(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.save_last(state(), CONFIGURATION)
        values = torch.load(folder.path / LAST, weights_only=True)
        torch.save({**values, "data": Trap(tmp_path / "executed")}, folder.path / LAST)
        with pytest.raises(CheckpointError, match=r"mkdir.*not executed"):
            folder.load_last()
    assert not (tmp_path / "executed").exists()


def test_metrics_are_cut_to_the_position_and_a_torn_line_is_dropped(tmp_path):
    with RunFolder(tmp_path) as folder:
        for outer in range(3):
            for inner in range(2):
                folder.append_metrics({"outer": outer, "inner": inner})
        with (tmp_path / METRICS).open("a") as file:
            file.write('{"outer": 3, "inn')
        folder.cut_metrics(Position(1, 1, 7))
        folder.append_metrics({"outer": 1, "inner": 1})
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["outer"], line["inner"]) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_config_json_is_read_back_without_what_is_about_the_run(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_config(CONFIGURATION, {"data_root": "name \udcff"})
    assert read_run_config(tmp_path) == CONFIGURATION
    (tmp_path / CONFIG).write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_run_config(tmp_path)


def test_a_folder_that_holds_a_run_is_refused_and_a_used_one_without_a_run_is_not(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).close()
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(UsageError, match=r"last\.pt"):
        RunFolder(tmp_path)
    RunFolder(tmp_path, resume=True).close()
    assert sorted(os.listdir(tmp_path)) == [LAST, "notes.txt"]


def test_closing_lets_others_in_and_removes_a_folder_in_which_nothing_was_written(tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(UsageError, match="another qo-train"):
        RunFolder(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    (tmp_path / LAST).write_bytes(b"whole")
    for name in (f".{LAST}.0123abcd.tmp", f".{BEST}.4567cdef.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".notes.tmp").write_bytes(b"mine")
    RunFolder(tmp_path, resume=True).close()
    assert sorted(os.listdir(tmp_path)) == [".notes.tmp", LAST]
