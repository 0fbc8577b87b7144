"""Every engine that must not be run is refused before TensorRT is touched, and the message says what to do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from queryopt.errors import MismatchError, MissingError, ModelError
from queryopt.runtime import Hasher
from queryopt.runtime.cuda.driver import Gpu, find_gpu
from queryopt.runtime.tensorrt import BuiltEngine, Manifest, load_flavour, manifest_path, read_manifest
from queryopt.runtime.tensorrt.fit import fitting_engine, mismatches

L4 = Gpu("NVIDIA L4", (8, 9), (13, 0))
T4 = Gpu("Tesla T4", (7, 5), (13, 0))
Change = Callable[..., Manifest]


def refused(plan: Path) -> str:
    with pytest.raises(ModelError) as caught:
        Hasher(plan)
    message = str(caught.value)
    assert str(plan) in message
    assert "--rebuild" in message
    assert message.count("\n") == 0
    return message


class TestFiles:
    def test_without_a_manifest(self, plan: Path) -> None:
        manifest_path(plan).unlink()
        assert "no manifest model.plan.json beside it, and an engine without one isn't run" in refused(plan)

    def test_zero_bytes(self, plan: Path) -> None:
        plan.write_bytes(b"")
        assert "zero bytes" in refused(plan)

    @pytest.mark.parametrize("size", [3, 1000, -1])
    def test_cut_off(self, plan: Path, size: int) -> None:
        content = plan.read_bytes()[:size]
        plan.write_bytes(content)
        assert f"{len(content):,} bytes, but its manifest says {read_manifest(plan).plan_bytes:,}: it is cut off" in (
            refused(plan)
        )

    @pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"x", b"ptrt" + bytes(5000)])
    def test_foreign_header(self, plan: Path, content: bytes) -> None:
        plan.write_bytes(content)
        assert "no plan of TensorRT: it begins with" in refused(plan)

    def test_longer(self, plan: Path) -> None:
        plan.write_bytes(plan.read_bytes() + b"x")
        assert "it is another one" in refused(plan)

    def test_a_flipped_bit(self, plan: Path) -> None:
        content = bytearray(plan.read_bytes())
        content[len(content) // 2] ^= 1
        plan.write_bytes(content)
        assert "its SHA-256 is not its manifest's" in refused(plan)

    @pytest.mark.parametrize("content", ["", "{}", "[]", "{", '{"format_version": 0}', '{"format_version": "1"}'])
    def test_damaged_manifest(self, plan: Path, content: str) -> None:
        manifest_path(plan).write_text(content)
        assert "damaged" in refused(plan)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("profile", {"smallest": 1}),
            ("capabilities", []),
            ("capabilities", ["new"]),
            ("plan", {"bytes": 3}),
            ("onnx", {"sha256": "00"}),
            ("flavour", 3),
            ("gpu", 3),
        ],
    )
    def test_damaged_value(self, plan: Path, key: str, value: object) -> None:
        values = json.loads(manifest_path(plan).read_text())
        manifest_path(plan).write_text(json.dumps({**values, key: value}))
        assert "the manifest is damaged" in refused(plan)

    def test_newer_manifest(self, plan: Path) -> None:
        values = json.loads(manifest_path(plan).read_text())
        manifest_path(plan).write_text(json.dumps({**values, "format_version": 2}))
        assert "upgrade queryopt" in refused(plan)

    def test_a_manifest_without_end(self, plan: Path) -> None:
        with open(manifest_path(plan), "a") as file:
            file.write(" " * (1 << 20))
        assert "too large" in refused(plan)

    def test_what_was_written_is_read(self, plan: Path, built: BuiltEngine) -> None:
        assert read_manifest(plan) == built.manifest


class TestMismatch:
    """The manifest against a package and a GPU."""

    def test_everything_fits(self, plan: Path) -> None:
        assert mismatches(read_manifest(plan), load_flavour("tensorrt_rtx"), L4) == []

    def test_another_version(self, plan: Path, change_manifest: Change) -> None:
        change_manifest(version="1.0.0.21")
        with pytest.raises(MismatchError, match=r"built by TensorRT-RTX 1\.0\.0\.21, and TensorRT-RTX .* --rebuild"):
            fitting_engine(plan)

    def test_another_flavour_that_is_not_installed(self, plan: Path, change_manifest: Change) -> None:
        change_manifest(flavour="tensorrt", version="11.4.0.106")
        with pytest.raises(MissingError, match=r"built by TensorRT 11\.4\.0\.106: tensorrt can't be loaded .*\[trt\]"):
            fitting_engine(plan)

    def test_another_system(self, plan: Path, change_manifest: Change) -> None:
        change_manifest(host="windows-amd64")
        with pytest.raises(MismatchError, match="built on windows-amd64, and this is"):
            fitting_engine(plan)

    def test_the_onnx_beside_it_is_named(self, plan: Path, built: BuiltEngine, change_manifest: Change) -> None:
        shutil.copy(built.path.with_suffix(".onnx"), plan.parent)
        change_manifest(version="1.0.0.21")
        with pytest.raises(
            MismatchError, match=r"build it again here: .*--rebuild, or qo-export --onnx .*model\.onnx --engine"
        ):
            fitting_engine(plan)

    def test_another_gpu(self, plan: Path) -> None:
        flavour = load_flavour("tensorrt_rtx")
        assert mismatches(read_manifest(plan), flavour, T4) == [
            "it was built for compute capabilities 8.6, 8.9, and this GPU is Tesla T4 (compute capability 7.5)"
        ]
        for_one = replace(read_manifest(plan), gpu="NVIDIA A10", capabilities=((8, 6),))
        assert mismatches(for_one, flavour, L4) == [
            "it was built for NVIDIA A10 (compute capability 8.6), and this GPU is NVIDIA L4 (compute capability 8.9)"
        ]
        same_capability = replace(for_one, gpu="NVIDIA RTX A6000")
        assert mismatches(same_capability, flavour, Gpu("NVIDIA A10", (8, 6), (13, 0)))
        assert mismatches(for_one, flavour, Gpu("NVIDIA A10", (8, 6), (13, 0))) == []

    def test_all_of_it_is_said(self, plan: Path) -> None:
        manifest = replace(read_manifest(plan), version="1.0", host="windows-amd64")
        assert len(mismatches(manifest, load_flavour("tensorrt_rtx"), T4)) == 3

    def test_a_batch_outside_of_the_profile(self, plan: Path) -> None:
        manifest = read_manifest(plan)
        manifest.require_batch(plan, 8)
        with pytest.raises(MismatchError, match=r"takes 1 to 8 images .* --batch 8, .* --profile 1,4,9"):
            manifest.require_batch(plan, 9)


def has_gpu() -> bool:
    try:
        find_gpu()
    except MissingError:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_driver_nothing_crashes(plan: Path) -> None:
    code = (
        "import sys\nfrom queryopt.runtime import Hasher\nfrom queryopt.errors import MissingError\n"
        "try:\n    Hasher(sys.argv[1])\nexcept MissingError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, plan], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.plan: " in done.stdout
    assert "driver" in done.stdout
    assert "model.onnx, which also runs on the CPU" in done.stdout
