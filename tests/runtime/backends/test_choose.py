import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.runtime.backends import BACKENDS, choose_backend, open_backend

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def without(package: str, code: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process in which a package is not installed."""
    hide = f"""
import sys, importlib.abc
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {package!r} else found(name, package)
"""
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True)


@pytest.mark.skipif(HAS_CUDA, reason="ONNX Runtime for CUDA is installed")
def test_auto_takes_onnxruntime(frozen_model: Path) -> None:
    choice = choose_backend(frozen_model)
    assert (choice.name, choice.reason) == ("onnxruntime", "the default for fp32 on the CPU")


def test_auto_takes_tensorrt_for_an_engine(tmp_path: Path) -> None:
    assert choose_backend(tmp_path / "model.plan").name == "tensorrt"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "cuda"])
def test_an_engine_goes_to_tensorrt_alone(tmp_path: Path, backend: str) -> None:
    with pytest.raises(UsageError, match=r"takes a model\.onnx, not an engine"):
        open_backend(tmp_path / "model.plan", backend)


def test_tensorrt_takes_engines_alone(frozen_model: Path) -> None:
    with pytest.raises(UsageError, match=r"give a model\.plan"):
        open_backend(frozen_model, "tensorrt")


def test_unknown_names(frozen_model: Path) -> None:
    for name in BACKENDS:
        with pytest.raises(UsageError, match=f"did you mean {name}"):
            choose_backend(frozen_model, name[:-1])


@pytest.mark.skipif(HAS_CUDA, reason="ONNX Runtime for CUDA is installed")
def test_cuda_is_never_replaced_by_the_cpu(frozen_model: Path) -> None:
    with pytest.raises(MissingError, match=r"built without CUDA: pip uninstall onnxruntime, then .*\[cuda\]") as caught:
        open_backend(frozen_model, "cuda")
    assert caught.value.exit_code == ExitCode.MISSING


@pytest.mark.parametrize(("backend", "extra"), [("openvino", "openvino"), ("onnxruntime", "cpu"), ("cuda", "cuda")])
def test_a_missing_package_is_exit_4(frozen_model: Path, backend: str, extra: str, frozen_pictures: Path) -> None:
    package = "openvino" if backend == "openvino" else "onnxruntime"
    done = without(
        package,
        f"sys.argv[1:] = [{str(frozen_pictures)!r}, '--model', {str(frozen_model)!r}, '--backend', {backend!r}, "
        "'--no-index', '--out', 'codes.csv']\nfrom queryopt.runtime.cli.infer import main\nmain()",
    )
    assert done.returncode == 4, done.stderr
    assert f"pip install '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_auto_without_onnxruntime(frozen_model: Path) -> None:
    pytest.importorskip("openvino")
    code = (
        f"from queryopt.runtime import Hasher\nh = Hasher({str(frozen_model)!r}, threads=1)\nprint(h.choice, h.backend)"
    )
    done = without("onnxruntime", code)
    assert done.returncode == 0, done.stderr
    assert "reason='onnxruntime is not installed'" in done.stdout
    assert "openvino 20" in done.stdout
