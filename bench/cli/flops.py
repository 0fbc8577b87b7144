"""qo-bench flops: parameters and multiply-adds of a network, beside the paper's Table 4."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.bench.cli.options import show
from queryopt.cli import Command, Output, common_options, main_argument
from queryopt.codes import check_bits
from queryopt.errors import MissingError, UsageError
from queryopt.text import display_path, install_extra, json_text
from queryopt.train.run_files import find_checkpoint

if TYPE_CHECKING:
    from queryopt.bench.speed.flops import FlopReport
    from queryopt.train.network_config import NetworkConfig

__all__ = ["command"]


@click.command("flops", cls=Command, short_help="Parameters and multiply-adds of a network.")
@main_argument("[RUN]", "ckpt")
@click.option("--ckpt", metavar="RUN_OR_FILE", help="Count the network of a run folder or checkpoint.")
@click.option("--bits", type=int, help="Code length, 1 to 64, of a network that need not be trained.")
@click.option("--backbone", metavar="NAME", help="Its backbone.  [default: resnet50]")
@click.option(
    "--branches", type=int, help="Its branches in training, N.  [default: max(1, 96 // bits); small, tiny: fewer]"
)
@click.option("--image-size", type=int, help="Its input, in pixels.  [default: 224; small: 64, tiny: 32]")
@click.option("--out", "folder", metavar="DIR", help="Write flops.json and flops.png into this folder.")
@common_options
def command(out: Output, ckpt: str | None, folder: str | None, **settings: Any) -> None:
    """Count parameters and multiply-adds, of training and of inference.

    Two conventions: the paper's (convolutions, matrix products, BatchNorm, LayerNorm) and torch's (convolutions and
    matrix products). Both are for one picture, and of the forward pass alone.

    \b
    Examples:
      qo-bench flops --bits 12
      qo-bench flops runs/a --out costs/
    """
    chosen = {name: value for name, value in settings.items() if value is not None}
    _check(ckpt, chosen)
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingError(f"counting needs torch: {install_extra('train')}") from None
    from queryopt.bench.speed.flops import flop_report

    report = flop_report(_config(ckpt, chosen))
    show(out, report)
    if folder is not None:
        for path in _write(report, Path(folder)):
            out.log(f"wrote {display_path(path)}")


def _check(ckpt: str | None, chosen: dict[str, Any]) -> None:
    """Raise what can be said without torch, whose import takes seconds."""
    if ckpt is None:
        if "bits" not in chosen:
            raise UsageError("nothing to count: give a run (qo-bench flops runs/a) or a code length (--bits 12)")
        check_bits(chosen["bits"])
        return
    if chosen:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise UsageError(f"{names}: the checkpoint says what its network is; leave this out, or leave out --ckpt")
    find_checkpoint(ckpt)


def _config(ckpt: str | None, chosen: dict[str, Any]) -> "NetworkConfig":
    """The network to count: a checkpoint's, or that of the options."""
    if ckpt is None:
        from queryopt.bench.speed.untrained import network_config

        return network_config(**chosen)
    from queryopt.train.checkpoint import load_checkpoint

    return load_checkpoint(ckpt).config.network


def _write(report: "FlopReport", folder: Path) -> list[Path]:
    from queryopt.bench.speed.flops_plot import plot_flops

    folder.mkdir(parents=True, exist_ok=True)
    numbers, picture = folder / "flops.json", folder / "flops.png"
    numbers.write_text(json_text(report.to_dict()) + "\n", "utf-8")
    plot_flops(report, picture)
    return [numbers, picture]
