"""`qo-search` as a person runs it: a process that opens an index, finds a picture in it, prints its hits, and ends."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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

__all__ = ["make_index", "measure_process"]

_QUERY = b"class-0000/query.png"
_CHUNK = 10_000


def measure_process(spec: DataSpec, *, k: int = 10, rounds: int = 10, progress: Advance = no_advance) -> dict[str, Any]:
    """Make an index of the codes of a specification in a temporary folder, and search it with a picture that it holds.

    Seconds are of `qo-search` processes, from their start to their end; they load no model. cpu: CPU seconds of these.
    hits: what each printed. baseline: in turn with them, of a process that only starts Python and imports NumPy.

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
    return {
        "n": spec.count,
        "bits": spec.bits,
        "hits": hits,
        "seconds": searches.calls.tolist(),
        "cpu": searches.cpu_calls.tolist(),
        "baseline": baselines.calls.tolist(),
        "median": searches.median.wall,
        "cpu_median": searches.median.cpu,
        "baseline_median": baselines.median.wall,
    }


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
