"""`qo-search` as a person runs it: a process that opens an index, finds a picture in it, prints its hits, and ends."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.harness import CHILDREN, Contender, Schedule, run_rounds
from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.card import ModelCard, Preprocessing
from queryopt.codes import unpack_codes
from queryopt.errors import QueryOptError
from queryopt.progress import Advance, no_advance
from queryopt.runtime.index.meta import Meta
from queryopt.runtime.index.rows import Row
from queryopt.runtime.index.store import Store

__all__ = ["ProcessTiming", "make_index", "measure_process"]

_QUERY = b"class-0000/query.png"
_CHUNK = 10_000


@dataclass(frozen=True)
class ProcessTiming:
    """Seconds of each `qo-search` process, from its start to its end; it loads no model.

    hits: what each printed. cpu: CPU seconds of the searches.
    baseline: in turn with them, of a process that only starts Python and imports NumPy.
    """

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


def measure_process(spec: DataSpec, *, k: int = 10, rounds: int = 10, progress: Advance = no_advance) -> ProcessTiming:
    """Make an index of the codes of a specification in a temporary folder, and search it with a picture that it holds.

    progress: called with the number of pictures added. QueryOptError where the command fails.
    """
    assert spec.count is not None
    assert spec.bits is not None
    with tempfile.TemporaryDirectory(prefix="queryopt-search-") as temporary:
        folder = Path(temporary)
        picture = make_index(folder, spec, progress)

        def python(*arguments: object) -> str:
            command = [sys.executable, *map(str, arguments)]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise QueryOptError(f"{' '.join(command[1:3])} failed: {done.stderr.strip()}")
            return done.stdout

        start = ("-c", "from queryopt.runtime.cli.search import main; main()")
        command = (*start, picture, "--index", folder / "photos.db", "-k", k)
        # The first one also brings the files into memory.
        hits = json.loads(python(*command, "--json"))["hits"]
        search = Contender("qo-search", lambda _: python(*command))
        baseline = Contender("Python and NumPy alone", lambda _: python("-c", "import numpy"))
        searches, baselines = run_rounds([search, baseline], Schedule(rounds), clock=CHILDREN)
    seconds, cpu, alone = (tuple(times.tolist()) for times in (searches.calls, searches.cpu_calls, baselines.calls))
    return ProcessTiming(spec.count, spec.bits, hits, seconds, cpu, alone)


def make_index(folder: Path, spec: DataSpec, progress: Advance = no_advance) -> Path:
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


def _rows(codes: npt.NDArray[np.uint8], bits: int, query: Path, progress: Advance) -> Iterator[Row]:
    status = query.stat()
    for start in range(0, len(codes), _CHUNK):
        part = codes[start : start + _CHUNK]
        margins = np.where(unpack_codes(part, bits), 64, -64).astype(np.int8)
        for row, (code, margin) in enumerate(zip(part, margins, strict=True), start=start):
            label = b"class-%04d" % (row % 1000)
            name = _QUERY if row == 0 else b"%s/%08d.jpg" % (label, row)
            yield Row(name, status.st_size, status.st_mtime_ns, code.tobytes(), margin.tobytes(), label)
        progress(len(part))
