"""A model of a folder's own pictures, of which nothing is known: codes in closed form by a trunk that others trained.

`qo-infer FOLDER --fit` starts this module as a process, for the runtime imports neither PyTorch nor this.
"""

import time
from pathlib import Path
from typing import Any

import click

from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.export.onnx import ExportResult, export_onnx
from queryopt.progress import Progress
from queryopt.text import counted, display_path
from queryopt.train.loop import TrainResult, train
from queryopt.train.presets import preset_config

__all__ = ["fit_folder", "main"]


def fit_folder(
    folder: Path, run: Path, model: Path, progress: Progress | None = None, **settings: Any
) -> tuple[TrainResult, ExportResult]:
    """Fit codes to the pictures below a folder, without labels, and export them behind the parity gate.

    run: the run folder that is made. model: the model.onnx. settings: fields of TrainConfig and NetworkConfig that
    differ from the preset `pictures`. DataError where no picture can be read, or none differs from the others.
    """
    config = preset_config("pictures", **settings, data=f"unlabelled:{folder}")
    fitted = train(config, out=run, progress=progress)
    return fitted, export_onnx(run, model, threads=config.threads, progress=progress)


@click.command(cls=Command, name="qo-infer")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--bits", type=int)
@click.option("--image-size", type=int)
@threads_option
@common_options
def main(folder: Path, run: Path, model: Path, out: Output, **settings: int | None) -> None:
    """Fit a MODEL to the pictures of FOLDER, in the folder RUN. Pictures that can't be read are left to be named."""
    begun = time.monotonic()
    fitted, exported = fit_folder(folder, run, model, out.progress, **settings)
    pictures = fitted.images - len(fitted.skipped)
    kept = f" (features of {fitted.found:,} kept from before)" if fitted.found else ""
    parity = exported.parity
    assert parity is not None
    out.log(
        f"fit: {exported.card.bits} bits, without labels, of {counted(pictures, 'picture', 'pictures')}{kept}, in "
        f"{time.monotonic() - begun:.0f} s; {display_path(model)} flips {parity.flipped:,} of {parity.bits_compared:,} "
        "bits"
    )


if __name__ == "__main__":
    main()
