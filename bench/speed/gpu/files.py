"""The section `files`: JPEG files to codes with all cores, beside the model alone and decoding alone."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from queryopt.bench.speed.gpu.engine import open_engine
from queryopt.bench.speed.gpu.models import BITS, need_model
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Turn, left_out_tables, reason_of
from queryopt.bench.speed.throughput import Throughput, make_pictures, measure
from queryopt.cores import usable_cores
from queryopt.errors import MissingError, QueryOptError
from queryopt.runtime.backends import Backend, open_backend
from queryopt.runtime.cuda import open_runtime
from queryopt.text import install_extra

__all__ = ["FilesReport", "measure_files"]

_DISTINCT = 256
"""Pictures that are made; a round goes through them more than once."""
_ROUNDS = 3
_GOAL = 0.8


@dataclass(frozen=True)
class FilesReport:
    """What was measured, a row a backend. left_out: what could not run the model, and why."""

    rows: tuple[Throughput, ...]
    left_out: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        left_out = [list(one) for one in self.left_out]
        return {"rows": [row.to_dict() for row in self.rows], "left_out": left_out}

    def tables(self) -> list[Table]:
        """Pictures a second."""
        title = "Files to codes, images/s"
        if self.rows:
            row = self.rows[0]
            title += f" ({row.pictures:,} JPEGs of {1000 * row.megabytes:.0f} kB a round, {row.threads} threads)"
        table = Table(box=None, header_style="dim", title=title, title_justify="left")
        table.add_column("")
        columns = ("batch", "end to end", "decoding alone", "copy alone", "model alone", "writing alone")
        for name in (*columns, "of the model", "of the bound"):
            table.add_column(name, justify="right")
        for row in self.rows:
            rates = (row.medians.get(way) for way in ("end_to_end", "decode", "copy", "model", "write"))
            shares = (f"{row.medians['ratio']:.3f}", f"{_of_the_bound(row):.3f}")
            shown = ("" if rate is None else f"{rate:,.0f}" for rate in rates)
            table.add_row(row.backend, str(row.batch), *shown, *shares)
        return [table, *left_out_tables(self.left_out)]

    def figures(self) -> list[Figure]:
        """Files to codes as a share of the model alone; where decoding is slower than the model, of decoding too."""
        figures = []
        for row in self.rows:
            decoding = row.medians["decode"] < row.medians["model"]
            ratio = row.medians["ratio"]
            who = f"files to codes, {row.backend}"
            figures.append(
                Figure(f"{who}: share of the model alone", f"{ratio:.3f}", ratio, None if decoding else _GOAL)
            )
            if decoding:
                share = _of_the_bound(row)
                cores = f"{row.threads} cores decode {row.medians['decode']:,.0f}/s"
                figures.append(Figure(f"{who}: share of decoding, the bound ({cores})", f"{share:.3f}", share, _GOAL))
        return figures

    def problems(self) -> list[str]:
        """None."""
        return []


def measure_files(options: GpuOptions, turn: Turn) -> FilesReport:
    """Hash files in each backend that the GPU has here. MissingError where there is none."""
    rows: list[Throughput] = []
    left_out: list[tuple[str, str]] = []
    batch = max(options.model_batches)
    pictures: list[Path] = []
    cuda = None
    if options.runtime is not None:
        with contextlib.suppress(MissingError):
            cuda = open_runtime(options.runtime)
    took = 0.0
    for name, opening in _backends(options):
        if rows and not turn.has(1.5 * took, name):
            continue
        started = turn.spent
        try:
            with contextlib.closing(opening()) as backend:
                if not pictures:
                    pictures = _pictures(options.folder / "pictures", options.images)
                    started = turn.spent
                rows.append(measure(name, pictures, batch=batch, rounds=_ROUNDS, backend=backend, cuda=cuda))
        except (QueryOptError, RuntimeError, ImportError) as error:
            left_out.append((name, reason_of(error)))
            turn.log(f"without {name}: {left_out[-1][1]}")
            continue
        took = turn.spent - started
        medians = rows[-1].medians
        turn.log(f"{rows[-1].backend}: {medians['end_to_end']:,.0f} images/s, {medians['model']:,.0f} the model alone")
        turn.keep(FilesReport(tuple(rows), tuple(left_out)))
    if not rows:
        raise MissingError("; ".join(f"{name}: {reason}" for name, reason in left_out))
    return FilesReport(tuple(rows), tuple(left_out))


def _pictures(folder: Path, count: int) -> list[Path]:
    """So many files, of which some are the same: making them takes longer than hashing them."""
    folder.mkdir()
    distinct = make_pictures(folder, min(_DISTINCT, count))
    return [distinct[number % len(distinct)] for number in range(count)]


def _backends(options: GpuOptions) -> Iterator[tuple[str, Callable[[], Backend]]]:
    """What can run the model here, PyTorch last: its libraries are not those that ONNX Runtime wants."""

    def engine() -> Backend:
        plan = options.engine or options.model("fp16", ".plan")
        if not options.rehearse and not plan.is_file():
            raise MissingError("the section engine built no engine")
        return open_engine(plan, options)

    def provider() -> Backend:
        need_model(options, "fp16")
        name = "onnxruntime" if options.rehearse else "cuda"
        return open_backend(options.model("fp16"), name, usable_cores())

    def torch() -> Backend:
        try:
            from queryopt.bench.speed.gpu.network import load_subject
            from queryopt.bench.speed.gpu.torch_network import FoldedTorchBackend
        except ImportError as error:
            raise MissingError(f"PyTorch ({error}): {install_extra('train')}") from None
        return FoldedTorchBackend(load_subject(options.checkpoint, options.backbone, BITS)[0], options.device)

    yield "engine", engine
    yield "cuda", provider
    yield "PyTorch", torch


def _of_the_bound(row: Throughput) -> float:
    """Files to codes as a share of the slower of decoding and model."""
    return row.medians["end_to_end"] / min(row.medians["model"], row.medians["decode"])
