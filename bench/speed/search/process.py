"""`qo-search` as a person runs it: a process that opens an index, finds a picture in it, prints its hits, and ends."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.card import ModelCard, Preprocessing
from queryopt.codes import unpack_codes
from queryopt.errors import QueryOptError
from queryopt.runtime.index.meta import Meta
from queryopt.runtime.index.rows import Row
from queryopt.runtime.index.store import Store

__all__ = ["ProcessTiming", "make_index", "measure_process"]

_QUERY = b"class-0000/query.png"


@dataclass(frozen=True)
class ProcessTiming:
    """Seconds of each `qo-search` process, from its start to its end, and, interleaved, of one that only starts Python
    and imports NumPy; cpu: CPU seconds of the searches. None of them loads a model. hits: what each printed."""

    n: int
    bits: int
    hits: int
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    baseline: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of a search, the median."""
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        """CPU seconds of a search, the median."""
        return statistics.median(self.cpu)

    @property
    def baseline_median(self) -> float:
        """Seconds of Python and NumPy alone, the median."""
        return statistics.median(self.baseline)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the medians, JSON-serialisable."""
        medians = {"median": self.median, "cpu_median": self.cpu_median, "baseline_median": self.baseline_median}
        return asdict(self) | medians


def measure_process(
    spec: DataSpec, *, k: int = 10, rounds: int = 10, progress: Callable[[int], object] | None = None
) -> ProcessTiming:
    """Make an index of the codes of a specification in a temporary folder, and search it with a picture that it holds.

    progress: called with the number of pictures added. QueryOptError where the command fails.
    """
    with tempfile.TemporaryDirectory(prefix="queryopt-search-") as temporary:
        folder = Path(temporary)
        picture = make_index(folder, spec, progress)
        command = [
            *(sys.executable, "-c", "from queryopt.runtime.cli.search import main; main()", str(picture)),
            *("--index", str(folder / "photos.db"), "-k", str(k)),
        ]
        start = [sys.executable, "-c", "import numpy"]
        # The first one also brings the files into memory.
        hits = json.loads(_run([*command, "--json"], folder))["hits"]
        seconds: list[float] = []
        cpu: list[float] = []
        baseline: list[float] = []
        for _ in range(rounds):
            for one, times in ((command, seconds), (start, baseline)):
                worked, started = _children(), time.perf_counter()
                _run(one, folder)
                times.append(time.perf_counter() - started)
                if times is seconds:
                    cpu.append(_children() - worked)
    assert spec.count is not None
    assert spec.bits is not None
    return ProcessTiming(spec.count, spec.bits, hits, tuple(seconds), tuple(cpu), tuple(baseline))


def make_index(folder: Path, spec: DataSpec, progress: Callable[[int], object] | None = None) -> Path:
    """Write photos.db with the codes of a specification into a folder, and return the picture of its first row.

    That picture is a real file; those of the other rows are names alone.
    """
    from PIL import Image

    data = make_data(spec)
    pictures = folder / "photos"
    query = pictures / _QUERY.decode()
    query.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(query)
    card = ModelCard(data.bits, Preprocessing.for_size(224), "resnet50", "fp32", 1.0, "0" * 64)
    path = folder / "photos.db"
    Store.create(path, Meta(card, pictures, None, (card.precision,)))
    store = Store.open(path, readonly=False, timeout=0)
    try:
        with store.change() as changes:
            changes.put(_rows(data.codes, data.bits, query, progress))
    finally:
        store.close()
    return query


def _rows(
    codes: np.ndarray[Any, np.dtype[np.uint8]], bits: int, query: Path, progress: Callable[[int], object] | None
) -> Iterator[Row]:
    status = query.stat()
    chunk = 10_000
    for start in range(0, len(codes), chunk):
        part = codes[start : start + chunk]
        margins = np.where(unpack_codes(part, bits), 64, -64).astype(np.int8)
        for row, (code, margin) in enumerate(zip(part, margins, strict=True), start=start):
            label = b"class-%04d" % (row % 1000)
            name = _QUERY if row == 0 else b"%s/%08d.jpg" % (label, row)
            yield Row(name, status.st_size, status.st_mtime_ns, code.tobytes(), margin.tobytes(), label)
        if progress is not None:
            progress(len(part))


def _children() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise QueryOptError(f"{' '.join(command[1:3])} failed: {done.stderr.strip()}")
    return done.stdout
