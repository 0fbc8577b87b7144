import json
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from queryopt.export.cli import main
from queryopt.train import NetworkConfig, TrainConfig, train


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder that queryopt.train made, on pictures of three classes. Not to be changed."""
    root = tmp_path_factory.mktemp("trained")
    for label, colour in enumerate(["red", "green", "blue"]):
        (root / "data" / colour).mkdir(parents=True)
        for number in range(10):
            shade = tuple(min(255, (180 if c == label else 30) + 7 * number) for c in range(3))
            Image.new("RGB", (40, 36), shade).save(root / "data" / colour / f"{number}.png")
    config = TrainConfig(
        NetworkConfig(12, backbone="tiny", image_size=32, dim=32, heads=4, feedforward=64),
        data=str(root / "data"),
        iterations=1,
        epochs=1,
        samples=16,
        batch=8,
        weights="none",
        validation_fraction=0.25,
        threads=1,
    )
    train(config, out=root / "run")
    return root / "run"


def test_an_export_says_in_five_lines_what_was_written_how_it_was_checked_and_what_is_next(trained):
    result = invoke(trained)
    assert result.exit_code == 0, result.output
    model, code, network, parity, following = result.stdout.splitlines()
    assert model.startswith(f"model:    {trained / 'model.onnx'}  (0.2 MB, fp32, fingerprint ")
    assert code == "code:     12 bits of tiny at 32 x 32 pixels"
    assert network == "network:  1,149,312 multiply-adds a picture; auxiliary branch stripped, folded (1.1 % fewer)"
    assert parity.startswith(
        "parity:   passed: at most 0 of 20,004 bits flipped against torch on onnxruntime and openvino"
    )
    assert following == f"next:     qo-infer FOLDER --model {trained / 'model.onnx'}"


def test_a_trained_run_exports_on_its_validation_pictures(trained):
    result = invoke("--ckpt", trained, "-v")
    assert result.exit_code == 0, result.output
    assert f"model:    {trained / 'model.onnx'}" in result.stdout
    assert "0 of 20,004 bits flipped against torch on onnxruntime" in result.stdout
    assert "(rate 0, with 95 % confidence below 1.5e-04)" in result.stdout
    assert "0 of 20,004 bits flipped against torch on openvino" in result.stdout
    assert "top-10 overlap 1.0000; mAP " in result.stdout
    assert " (+0.00 points, 6 labelled pictures against each other)" in result.stdout
    compared = "1,667 views of 6 pictures (the run's validation pictures), with flips and crops to reach 20,000 bits; "
    assert compared in result.stdout
    assert "takes minutes" in result.stderr
    assert "warning" not in result.stderr
    assert "1,787,904 multiply-adds with 8 branches -> 1,149,312 in the folded graph" in result.stdout
    assert "1,161,600 multiply-adds of the inference network -> 1,149,312 (1.1 % fewer)" in result.stdout
    assert "       12,288  decoder: queries and positions into constants" in result.stdout


def test_a_run_that_stopped_early_is_exported_with_a_warning(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    last = torch.load(run / "last.pt", weights_only=True)
    last["position"] = {"outer": 0, "inner": 0, "step": 1}
    torch.save(last, run / "last.pt")
    (run / "best.safetensors").unlink()
    result = invoke("--ckpt", run, "--no-parity", "-q", "--json")
    assert result.exit_code == 0, result.output
    assert "warning: this run stopped after iteration 0 of 1 (last.pt)" in result.stderr
    assert f"qo-train --out {run} --resume goes on" in result.stderr
    assert json.loads(result.stdout)["stopped_early"] == {"iterations_done": 0, "iterations": 1}


def test_the_network_s_own_parts_are_kept_on_request(network, save_run):
    result = invoke("--ckpt", save_run(network), "--no-parity", "--no-fold", "-v")
    assert result.exit_code == 0, result.output
    assert "in the plain graph" in result.stdout
    assert "folded:   no (--no-fold)" in result.stdout


def test_json_is_alone_on_stdout(trained, model_path, picture_folder, tmp_path):
    out = tmp_path / "m.onnx"
    out.write_bytes(model_path.read_bytes())
    result = invoke("--ckpt", trained, "--out", out, "--images", picture_folder, "--json", "--explain", "--batch", 7)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["model"] == str(out)
    assert values["bytes"] == out.stat().st_size
    assert values["parity"]["bits_compared"] >= 20_000
    assert values["parity"]["distinct_codes"] > 1
    assert "warning" not in result.stderr
    assert values["strip"]["graph"] == "folded"
    assert values["strip"]["multiply_adds"] == values["fold"]["after"] == 1_149_312
    assert sum(step["saved"] for step in values["fold"]["steps"]) == values["fold"]["before"] - 1_149_312
    assert values["card"]["bits"] == 12
    assert values["stopped_early"] is None
    assert values["replaced"] not in (None, values["fingerprint"])


def test_above_the_limit_it_exits_5_and_writes_no_model(unsure_network, save_run, picture_folder):
    run = save_run(unsure_network)
    result = invoke("--ckpt", run, "--images", picture_folder)
    assert result.exit_code == 5
    assert "is above the limit 1.00e-03" in result.stderr
    assert "no model was written" in result.stderr
    assert not result.stdout
    assert not (run / "model.onnx").exists()


def test_unreadable_pictures_are_named_and_exit_1(network, save_run, pictures, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(pictures[0].read_bytes())
    (folder / "bad.jpg").write_text("no picture")
    result = invoke("--ckpt", save_run(network), "--images", folder, "-v")
    assert result.exit_code == 1
    assert f"warning: {folder / 'bad.jpg'}: " in result.stderr
    assert "1,667 views of 1 picture (the given folder)" in result.stdout


def test_a_network_that_gives_all_pictures_one_code_is_exported_with_a_warning(make_network, save_run, picture_folder):
    network = make_network()
    with torch.no_grad():
        # Every output is nearly this one vector, and the head agrees with it.
        network.decoder.final_norm.weight.fill_(1e-3)
        network.decoder.final_norm.bias.fill_(1.0)
        network.head.weight.fill_(0.1)
    result = invoke("--ckpt", save_run(network), "--images", picture_folder, "--json")
    assert result.exit_code == 0, result.output
    assert "warning: the network gives every picture the same code" in result.stderr
    assert json.loads(result.stdout)["card"]["parity"]["distinct_codes"] == 1


def test_leaving_the_gate_out_is_said_aloud_and_so_is_what_was_replaced(network, model_path, save_run):
    run = save_run(network)
    (run / "model.onnx").write_bytes(model_path.read_bytes())
    result = invoke("--ckpt", run, "--no-parity", "-q")
    assert result.exit_code == 0
    assert "warning: --no-parity" in result.stderr
    assert "not checked (--no-parity)" in result.stdout
    assert ", in place of one of the same checkpoint" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "qo-export RUN"),
        (["--ckpt", "no/such/run"], 3, "no/such/run: no such file or folder"),
        (["--ckpt", "no/such/run", "--max-flip-rate", "2"], 2, "max-flip-rate"),
        (["--ckpt", "x", "--no-parity", "--images", "y"], 2, "drop one of them"),
        (["--ckpt", "x", "--imags", "y"], 2, "Did you mean '--images'"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, code, message):
    result = invoke(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [["--ckpt", "nowhere"], ["--ckpt", ".", "--images", "empty"]])
def test_simple_errors_do_not_wait_for_torch(arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "best.safetensors").touch()
    code = "import atexit, sys; from queryopt.export.cli import main"
    code += "; atexit.register(lambda: print('torch' in sys.modules)); main()"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout == "False\n"


def test_no_pictures_exit_3_and_say_what_to_pass(network, save_run):
    result = invoke("--ckpt", save_run(network, data="/no/longer/here"))
    assert result.exit_code == 3
    assert "pass some with --images FOLDER" in result.stderr


def test_no_pictures_to_calibrate_on_exit_3_and_say_what_to_pass(network, save_run, picture_folder):
    run = save_run(network, data="/no/longer/here")
    result = invoke("--ckpt", run, "--images", picture_folder, "--precision", "int8")
    assert result.exit_code == 3
    assert "pass some with --calibrate FOLDER" in result.stderr


@pytest.mark.parametrize(("package", "extra"), [("onnxscript", "train"), ("onnxruntime", "cpu")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    result = invoke("--ckpt", "x")
    assert result.exit_code == 4
    assert f"needs {package}, which is not installed: install queryopt's extra [{extra}]" in result.stderr


def test_as_a_process_it_says_nothing_but_the_result(trained, tmp_path):
    code = "from queryopt.export.cli import main; main()"
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        "--ckpt",
        trained,
        "--out",
        tmp_path / "m.onnx",
        "--no-parity",
        "--json",
        "-q",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "warning: --no-parity: the model is not compared with the network on any picture"
    ]
    assert json.loads(done.stdout)["parity"] is None
