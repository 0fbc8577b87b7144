"""What tests of what models are worth share: runs on generated birds."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from queryopt.errors import ExitCode

SEED, VALIDATION = 1, 0.25


@pytest.fixture(scope="session")
def birds_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """6 classes, 8 training and 3 test pictures each."""
    return f"synthetic:birds?classes=6&train=8&test=3&size=32&folder={tmp_path_factory.mktemp('birds') / 'birds'}"


@pytest.fixture(scope="session")
def birds(birds_data: str) -> Path:
    """Where birds/, run/ and plain/ (one branch), trained on it, and run/'s model.onnx lie. Not to be changed.

    Neither the network's codes nor the solved ones of run/ are all the same: the tests look.
    """
    from queryopt.export.cli import main as qo_export
    from queryopt.train import preset_config, train

    folder = Path(birds_data.partition("folder=")[2]).parent
    for name, branches in (("run", 2), ("plain", 1)):
        config = preset_config(
            "tiny",
            bits=6,
            branches=branches,
            data=birds_data,
            codes="separated",
            iterations=2,
            samples=24,
            validation_fraction=VALIDATION,
            seed=SEED,
            threads=1,
        )
        train(config, None, folder / name)
    options = ["--ckpt", str(folder / "run"), "--threads", "1", "--explain", "--no-fold"]
    exported = CliRunner().invoke(qo_export, options)
    assert exported.exit_code == ExitCode.DONE, exported.output
    return folder
