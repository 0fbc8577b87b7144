"""A checkpoint is loaded whole and checked, or refused by name; nothing that a file holds is ever executed."""

import json
import os
import pickle
import resource
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from queryopt.errors import CheckpointError, ExitCode, MissingError
from queryopt.train.checkpoint import BEST, CONFIG, CONFIG_KEY, LAST, load_checkpoint, read_torch_file, save_best
from queryopt.train.network import QueryOpt
from queryopt.train.presets import preset_config

CONFIGURATION = preset_config("tiny")


@pytest.fixture
def state():
    torch.manual_seed(3)
    return QueryOpt(CONFIGURATION.network).state_dict()


@pytest.fixture
def run(tmp_path, state):
    folder = tmp_path / "run"
    folder.mkdir()
    save_best(folder / BEST, state, CONFIGURATION)
    return folder


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_run_folder_and_file_give_the_same_network(run, state):
    images = torch.rand(2, 3, 32, 32)
    reference = QueryOpt(CONFIGURATION.network)
    reference.load_state_dict(state)
    expected = reference.eval()(images)
    for source in (run, str(run / BEST)):
        checkpoint = load_checkpoint(source)
        assert checkpoint.config == CONFIGURATION
        assert checkpoint.folder == run
        network = checkpoint.network()
        assert not network.training
        assert torch.equal(network(images), expected)


def test_equal_weights_give_equal_bytes(run, state):
    before = (run / BEST).read_bytes()
    save_best(run / "again.safetensors", state, CONFIGURATION)
    assert (run / "again.safetensors").read_bytes() == before


def test_last_pt_and_a_bare_state_dict_beside_its_configuration(tmp_path, state):
    torch.save({"model": state, CONFIG_KEY: CONFIGURATION.to_json()}, tmp_path / LAST)
    assert load_checkpoint(tmp_path).path.name == LAST
    torch.save(state, tmp_path / "weights.pt")
    assert "no config.json beside it" in refused(tmp_path / "weights.pt")
    (tmp_path / CONFIG).write_text(CONFIGURATION.to_json())
    assert torch.equal(load_checkpoint(tmp_path / "weights.pt").state["queries"], state["queries"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_accepted(tmp_path, state, prefix):
    wrapped = {prefix + key: value for key, value in state.items()}
    save_file(wrapped, tmp_path / "a.safetensors", {CONFIG_KEY: CONFIGURATION.to_json()})
    assert set(load_checkpoint(tmp_path / "a.safetensors").state) == set(state)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_is_never_executed(tmp_path, state, legacy):
    mark = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    torch.save({"model": state, "x": Trap(mark)}, path, _use_new_zipfile_serialization=not legacy)
    message = refused(path)
    assert "system" in message
    assert "not executed" in message
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(mark)))
    refused(tmp_path / "plain.pt")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_is_refused_without_a_warning_or_advice_to_run_it(tmp_path, protocol):
    mark, path = tmp_path / "executed", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"x": Trap(mark)}, protocol))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(CheckpointError) as caught:
            read_torch_file(path)
    assert not shown
    assert not mark.exists()
    assert str(caught.value).startswith(f"{path}: ")
    assert "Re-running" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("version", ["2.9.1+cpu", "1.13.0", "2.6.0a0+git1"])
def test_a_torch_that_a_checkpoint_can_make_run_code_reads_none(tmp_path, state, monkeypatch, version):
    torch.save(state, tmp_path / "weights.pt")
    assert read_torch_file(tmp_path / "weights.pt").keys() == state.keys()
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(MissingError, match=r"pip install 'torch>=2\.10'"):
        read_torch_file(tmp_path / "weights.pt")


def test_malicious_pickle_in_a_zip_that_torch_wrote(tmp_path, state):
    mark = tmp_path / "executed"
    torch.save(state, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "evil.pt", "w") as evil:
        for entry in good.infolist():
            data = pickle.dumps(Trap(mark), protocol=2) if entry.filename.endswith("data.pkl") else good.read(entry)
            evil.writestr(entry, data)
    refused(tmp_path / "evil.pt")
    assert not mark.exists()


def test_pickled_module_is_refused_with_a_hint(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.t")
    message = refused(tmp_path / "model.t")
    assert "torch.nn.modules.linear.Linear" in message
    assert "state_dict()" in message
    assert "trust" in message


def test_missing_and_unexpected_tensors_are_listed(tmp_path, state):
    del state["queries"]
    state["more"] = torch.zeros(1)
    save_best(tmp_path / BEST, state, CONFIGURATION)
    message = refused(tmp_path)
    assert "missing: queries" in message
    assert "unexpected: more" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bits": 16}, "queries is [16, 32], not [12, 32]"),
        ({"feedforward": 48}, "[48, 32], not [64, 32]"),
        ({"dim": 64}, "queries is [12, 64], not [12, 32]"),
        ({"backbone": "small"}, "backbone"),
    ],
)
def test_weights_of_another_network_than_configured(tmp_path, change, named):
    other = QueryOpt(preset_config("tiny", **change).network)
    save_best(tmp_path / BEST, other.state_dict(), CONFIGURATION)
    message = refused(tmp_path)
    assert named in message
    assert "tiny, 12 bits, dim 32" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, state, value):
    state["head.weight"].view(-1)[5] = value
    save_best(tmp_path / BEST, state, CONFIGURATION)
    assert "head.weight" in refused(tmp_path)


@pytest.mark.parametrize("name", [BEST, LAST])
def test_cut_off_empty_and_foreign_files(run, state, name):
    torch.save({"model": state, CONFIG_KEY: CONFIGURATION.to_json()}, run / LAST)
    path = run / name
    whole = path.read_bytes()
    for length in (1, 5, 9, 100, 5_000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(b"")
    assert "empty" in refused(path)
    for foreign in (
        b"hello, world\n",
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"\x80\x04\x95junk",
        b"PK\x03\x04" + bytes(99),
    ):
        path.write_bytes(foreign)
        refused(path)


def test_a_header_that_claims_a_huge_network_allocates_nothing(tmp_path, state):
    values = CONFIGURATION.to_dict()
    values["network"] = {**values["network"], "dim": 4096, "feedforward": 65536}

    save_file(state, tmp_path / BEST, {CONFIG_KEY: json.dumps(values)})
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "not [12, 4096]" in refused(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < limit + 512 * 1024


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"network": {"bits": 12}, "format_version": 99}', '{"network": {}, "format_version": 1}'],
)
def test_damaged_or_newer_configuration(tmp_path, state, text):
    save_file(state, tmp_path / BEST, {CONFIG_KEY: text})
    refused(tmp_path)


def test_folder_that_is_no_run_names_the_runs_in_it(tmp_path, run):
    assert "run" in refused(tmp_path).split("runs in it:")[1]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert BEST in refused(empty)


def test_wrong_name_gets_a_suggestion(run):
    assert f"; did you mean {run.name}?" in refused(run.with_name("runn"))


def test_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe")


def test_full_disk_keeps_the_old_file(tmp_path, run):
    # A real limit of the system on the size of a file, in a process of its own: the write fails half way.
    before = (run / BEST).read_bytes()
    code = f"""
import resource, sys
from pathlib import Path
from queryopt.train.checkpoint import load_checkpoint, save_best
checkpoint = load_checkpoint({str(run)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_best(Path({str(run / BEST)!r}), checkpoint.state, checkpoint.config)
except OSError as error:
    sys.exit(0 if error.errno else 1)
sys.exit(2)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == ExitCode.DONE
    assert (run / BEST).read_bytes() == before
    assert os.listdir(run) == [BEST]
