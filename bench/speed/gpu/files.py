"""The section `files`: JPEG files to codes with all cores, beside the model alone and decoding alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from queryopt.bench.machine import Report
from queryopt.bench.speed.gpu.engine import open_built_engine
from queryopt.bench.speed.gpu.models import load_subject
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, SectionReport, Turn, training_packages
from queryopt.bench.speed.throughput import Settings, make_pictures, measure
from queryopt.bench.tables import rows_table
from queryopt.cores import usable_cores
from queryopt.errors import MissingError
from queryopt.runtime.backends import Backend, open_backend
from queryopt.runtime.cuda import CudaRuntime, open_runtime

__all__ = ["measure_files"]

_DISTINCT = 256
"""Pictures that are made; a round goes through them more than once: making them takes longer than hashing them."""
_ROUNDS = 3
_GOAL = 0.8
_COLUMNS: dict[str, str | Callable[[Any], str]] = {
    "": "{backend}",
    "batch": "{batch}",
    "end to end": "{end_to_end:,.0f}",
    "decoding alone": "{decode_alone:,.0f}",
    "copy alone": "{copy_alone:,.0f}",
    "model alone": "{model_alone:,.0f}",
    "writing alone": "{write_alone:,.0f}",
    "of the model": "{ratio:.3f}",
    "of the bound": lambda row: f"{_of_the_bound(row):.3f}",
}


def measure_files(options: GpuOptions, turn: Turn) -> SectionReport:
    """Hash files in each backend that the GPU has here. MissingError where there is none."""
    folder = options.folder / "pictures"
    folder.mkdir()
    distinct = make_pictures(folder, min(_DISTINCT, options.images))
    pictures = [distinct[number % len(distinct)] for number in range(options.images)]
    cuda: CudaRuntime | None = None
    if options.runtime is not None:
        with contextlib.suppress(MissingError):
            cuda = open_runtime(options.runtime)
    batch = max(options.model_batches)

    def hash_with(name: str, opening: Callable[[], Backend]) -> Report:
        with contextlib.closing(opening()) as backend:
            settings = Settings(backend, batch=batch, rounds=_ROUNDS)
            row = measure(name, pictures, settings, cuda=cuda)
        turn.log("{backend}: {end_to_end:,.0f} images/s, {model_alone:,.0f} the model alone".format_map(row.values))
        return row

    jobs = ((name, partial(hash_with, name, opening)) for name, opening in _backends(options))
    return turn.attempt_all(jobs, _report, MissingError)


def _backends(options: GpuOptions) -> Iterator[tuple[str, Callable[[], Backend]]]:
    """What can run the model here, PyTorch last: its libraries are not those that ONNX Runtime wants."""

    def provider() -> Backend:
        name = "onnxruntime" if options.rehearse else "cuda"
        return open_backend(options.need_model("fp16"), name, usable_cores())

    def torch() -> Backend:
        with training_packages():
            from queryopt.bench.speed.gpu.pytorch import FoldedTorchBackend
        return FoldedTorchBackend(load_subject(options), options.device)

    yield "engine", partial(open_built_engine, options)
    yield "cuda", provider
    yield "PyTorch", torch


def _of_the_bound(row: dict[str, float]) -> float:
    """Files to codes as a share of what the slower of the model and decoding allows."""
    return row["end_to_end"] / min(row["model_alone"], row["decode_alone"])


def _report(reports: Sequence[Report]) -> SectionReport:
    rows = [report.values for report in reports]
    first = rows[0]
    title = (
        f"Files to codes, images/s ({first['pictures']:,} JPEGs of {1000 * first['megabytes']:.0f} kB a round, "
        f"{first['threads']} threads)"
    )
    figures = []
    for row in rows:
        share, bound, decoding = row["ratio"], _of_the_bound(row), row["decode_alone"] < row["model_alone"]
        who = f"files to codes, {row['backend']}"
        figures.append(Figure(f"{who}: share of the model alone", f"{share:.3f}", share, None if decoding else _GOAL))
        if decoding:
            cores = f"{row['threads']} cores decode {row['decode_alone']:,.0f}/s"
            figures.append(Figure(f"{who}: share of decoding, the bound ({cores})", f"{bound:.3f}", bound, _GOAL))
    table = rows_table(title, rows, _COLUMNS, plain=True)
    return SectionReport({"rows": [report.to_dict() for report in reports]}, [table], figures)
