"""The wheel in an empty environment: it installs by itself, and hashes and searches a folder of pictures."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"


def finish(command: Sequence[object], folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "QUERYOPT"))}
    environment |= variables
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def run(command: Sequence[object], folder: Path) -> str:
    return finish(command, folder).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # The folder that `make` builds in: what it has compiled is not compiled again.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--config-settings=build-dir=build/{wheel_tag}"]
    run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ROOT], folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"queryopt", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert {"queryopt/py.typed", "queryopt/train/__init__.py", "queryopt/runtime/__init__.py"} <= set(names)
    static = {"page.css", "serve/static/app.css", "serve/static/app.js", "serve/static/icon.svg"}
    static |= {str(path.relative_to(ROOT / "runtime")) for path in (ROOT / "runtime").rglob("*.jinja")}
    assert {f"queryopt/runtime/{name}" for name in static} <= set(names)
    doubles = {path.name for path in (ROOT / "tests" / "doubles").iterdir() if path.is_file()}
    assert doubles
    assert not doubles & {Path(name).name for name in names}, "what stands in for a GPU in tests is not installed"


def test_the_source_distribution_holds_what_a_wheel_is_made_from_and_no_more(tmp_path: Path) -> None:
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    run([sys.executable, "-P", "-c", build, tmp_path], ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        found = {name.split("/")[1] for name in file.getnames()}
    assert {"queryopt", "train", "export", "runtime", "bench"} <= found
    assert {"pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md"} <= found
    assert not {"tests", "build", "demo", ".venv", ".ci"} & found


def test_without_a_compiler_the_search_is_numpys(tmp_path: Path) -> None:
    building = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        tmp_path / "to",
    ]
    built = finish([*building, "--verbose", ROOT], tmp_path, CXX="/bin/false")
    assert "WITHOUT its native search core" in built.stdout + built.stderr
    code = (
        "import numpy as np\n"
        "from queryopt.runtime.search import HammingIndex\n"
        "for _ in range(2):\n"
        "    index = HammingIndex(np.arange(50_000, dtype=np.uint64), 48)\n"
        "print(index.path, index.search(np.array([5], np.uint64), 3).ids[0].tolist())\n"
    )
    searched = finish([sys.executable, "-P", "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "to"))
    assert searched.stdout == "numpy [5, 1, 4]\n"
    assert searched.stderr.count("native search core is not there") == 1
    assert len(searched.stderr.splitlines()) == 1


def test_an_empty_environment_hashes_and_searches_a_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"], tmp_path)
    assert "torch" not in run([python, "-m", "pip", "list"], tmp_path)
    commands = python.parent
    model = DATA / "v1" / "model.onnx"
    hashing = [commands / "qo-infer", DATA / "pictures", "--model", model, "--index", "photos.db", "--json"]
    summary = json.loads(run(hashing, tmp_path))
    assert summary["hashed"] == len([p for p in (DATA / "pictures").rglob("*") if p.is_file()])
    query = next(p for p in sorted((DATA / "pictures").rglob("*")) if p.is_file())
    found = json.loads(run([commands / "qo-search", query, "--index", "photos.db", "-k", "1", "--json"], tmp_path))
    assert found["results"][0]["hits"][0]["distance"] == 0
