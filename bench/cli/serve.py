"""qo-bench serve: how many requests qo-serve answers, and how long they take."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from queryopt.bench.cli.options import count, listed, show, whole_number
from queryopt.cli import Command, Output, common_options, option_group, threads_option
from queryopt.errors import UsageError
from queryopt.text import did_you_mean

__all__ = ["command"]


@dataclass(frozen=True)
class Load:
    """What is asked: each of the kinds by each number of clients at once, for so many seconds."""

    kinds: tuple[str, ...] | None
    clients: tuple[int, ...]
    seconds: float

    def __post_init__(self) -> None:
        if not self.clients:
            raise UsageError("--clients: give at least one number")


load_options = option_group(
    "load",
    Load,
    click.option("--kinds", callback=listed(str, "code,upload"), help="code, page, upload.  [default: all]"),
    click.option("--clients", callback=listed(count, "1,8,32"), default="1,8,32", show_default=True, help="At once."),
    click.option(
        "--seconds",
        type=click.FloatRange(0.1, 60),
        default=5,
        show_default=True,
        help="Of each kind and number of clients.",
    ),
)


@click.command("serve", cls=Command, short_help="Requests a second of qo-serve, and their times.")
@click.option("--model", type=click.Path(path_type=Path), help="The model.  [default: as qo-infer finds one]")
@click.option("--index", type=click.Path(path_type=Path), help="The index.  [default: one is generated, see --images]")
@click.option(
    "--images",
    callback=whole_number,
    default="100000",
    show_default=True,
    help="Pictures of a generated index, 1e6 say.",
)
@load_options
@threads_option
@common_options
def command(out: Output, model: Path | None, index: Path | None, images: int, load: Load, threads: int | None) -> None:
    """Put a bounded load on a qo-serve that is started for it on loopback, and stopped afterwards.

    Each client has a connection of its own, and asks again as soon as it has its answer. The clients run on the same
    machine: with few cores they take a part of what they measure. code is a search as JSON, page a page of hits as
    HTML, upload a picture of 640 x 480 pixels that is decoded, hashed and searched for.

    \b
    Examples:
      qo-bench serve --model model.onnx
      qo-bench serve --model model.onnx --images 1e6 --kinds code,page --json
    """
    from queryopt.runtime.serve.server import require_packages

    require_packages()
    from queryopt.bench.speed.serve_load import KINDS, generate_index, measure_load
    from queryopt.runtime.hasher import Hasher, find_model

    for kind in load.kinds or ():
        if kind not in KINDS:
            raise UsageError(f"no kind is called {kind!r}: there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    model = find_model(model)
    kinds = load.kinds or KINDS
    with tempfile.TemporaryDirectory() as folder:
        if index is None:
            index = Path(folder) / "generated.db"
            out.log(f"generating an index of {images:,} pictures")
            with Hasher(model, threads=1) as hasher:
                generate_index(index, hasher.card, images)
        with out.progress("measure", len(kinds) * len(load.clients), unit="runs") as advance:
            report = measure_load(index, model, kinds, load.clients, load.seconds, threads, advance)
    show(out, report)
