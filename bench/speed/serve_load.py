"""A bounded load on a qo-serve of this machine: closed-loop clients, each on a connection of its own."""

import contextlib
import http.client
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from queryopt.bench.machine import Report, load_average, take_head
from queryopt.bench.tables import rows_table
from queryopt.card import ModelCard
from queryopt.codes import pack_codes
from queryopt.errors import MissingError, UsageError
from queryopt.progress import Advance, no_advance
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.meta import Meta
from queryopt.runtime.index.rows import Row, encode_margins
from queryopt.runtime.index.store import Store

__all__ = ["KINDS", "generate_index", "measure_load"]

KINDS = ("code", "page", "upload")
"""code: POST /search with a code, 10 hits as JSON. page: the page of hits of a picture of the index, 24 of 96 hits as
HTML. upload: POST /search with a JPEG of 640 x 480 pixels, which the model hashes."""

_PICTURES = 16
_MOST_SECONDS = 60
_COUNTERS = {
    "run_seconds": "queryopt_model_run_seconds_sum",
    "runs": "queryopt_model_run_seconds_count",
    "run_pictures": "queryopt_model_run_pictures_sum",
    "cpu_seconds": "process_cpu_seconds_total",
}
_A_CLASS = 50
"""Pictures around one centre of a generated index."""
_PART = 50_000

_COLUMNS = {
    "": "{kind}",
    "clients": "{clients}",
    "requests/s": "{per_second:,.0f}",
    "p50 ms": "{p50_ms:.1f}",
    "p95 ms": "{p95_ms:.1f}",
    "p99 ms": "{p99_ms:.1f}",
    "503": "{refused}",
    "failed": "{failed}",
    "CPU ms": "{cpu_ms:.1f}",
    "model ms": "{model_ms:.1f}",
    "pictures/run": "{pictures_a_run:.1f}",
}

_Request = tuple[str, str, bytes | None, dict[str, str]]
"""Method, path, body and headers."""


def measure_load(
    index: Path,
    model: Path,
    kinds: Sequence[str] = KINDS,
    clients: Sequence[int] = (1, 8, 32),
    seconds: float = 5,
    threads: int | None = None,
    progress: Advance = no_advance,
) -> Report:
    """Start a qo-serve on loopback, ask it for `seconds` with each kind and number of clients, and stop it.

    threads: of its model. progress: called with 1 after each run. UsageError for more than 60 seconds, MissingError
    where qo-serve can't start.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise UsageError(f"seconds is {seconds}: a run takes up to {_MOST_SECONDS}")
    before = load_average()
    rows = []
    with _server(index, model, threads) as url:
        health = json.loads(_get(url, "/healthz"))
        for kind in KINDS:  # a warm-up
            with contextlib.closing(_connect(url)) as connection:
                for request in itertools.islice(_requests(kind, 0, 8, 1), 3):
                    _ask(connection, request)
        for kind, count in itertools.product(kinds, clients):
            feeds = [_requests(kind, client, health["bits"], health["images"]) for client in range(count)]
            rows.append(_run(url, kind, feeds, seconds))
            progress(1)
    head, served = take_head(before), {name: health[name] for name in ("images", "bits", "model")}
    values = served | {"threads": threads, "rows": rows, "load_before": None if head.load is None else head.load[0]}
    text = "{images:,} pictures, {bits} bits, {model}\n".format_map(served) + head.text
    return Report(head, values, [text, rows_table(None, rows, _COLUMNS)])


@contextlib.contextmanager
def _server(index: Path, model: Path, threads: int | None) -> Iterator[str]:
    code = "import sys; from queryopt.runtime.cli.serve import main; sys.exit(main())"
    options = ["--model", os.path.abspath(model), "--port", "0", "--json", "-q"]
    options += [] if threads is None else ["--threads", str(threads)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, os.path.abspath(index), *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        if not lines:
            raise MissingError("qo-serve did not start: what it said is above")
        yield str(json.loads("".join(lines))["url"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _run(url: str, kind: str, feeds: Sequence[Iterator[_Request]], seconds: float) -> dict[str, Any]:
    """What clients got, one for each of the feeds, all at once, who ask again as soon as they have an answer.

    requests: that were answered with 200, to which the percentiles belong. refused: with 503. failed: otherwise.
    model_ms: mean time of a run of the model, and pictures_a_run; both None where it did not run.
    cpu_ms: processor time of the server, all its threads, for each answer: others' work on the machine leaves it nearly
    alone; None where the system doesn't say.
    """
    start = threading.Barrier(len(feeds) + 1)
    with ThreadPoolExecutor(len(feeds)) as pool:
        clients = [pool.submit(_client, url, feed, seconds, start) for feed in feeds]
        before = _counters(url)
        start.wait()
        began = time.perf_counter()
        answers = [answer for client in clients for answer in client.result()]
    took = time.perf_counter() - began
    done = {name: value - before[name] for name, value in _counters(url).items()}
    times = [1000 * taken for status, taken in answers if status == 200]
    refused = sum(status == 503 for status, _ in answers)
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist() if times else [float("nan")] * 3
    return {
        "kind": kind,
        "clients": len(feeds),
        "requests": len(times),
        "refused": refused,
        "failed": len(answers) - len(times) - refused,
        "seconds": took,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "model_ms": 1000 * done["run_seconds"] / done["runs"] if done["runs"] else None,
        "pictures_a_run": done["run_pictures"] / done["runs"] if done["runs"] else None,
        "cpu_ms": 1000 * done["cpu_seconds"] / len(times) if done["cpu_seconds"] and times else None,
        "per_second": len(times) / took,
    }


def _client(
    url: str, requests: Iterator[_Request], seconds: float, start: threading.Barrier
) -> list[tuple[int, float]]:
    """Ask until the seconds are over, once at least. Returns status (0: none) and seconds of each answer."""
    answers: list[tuple[int, float]] = []
    with contextlib.closing(_connect(url)) as connection:
        first = next(requests)  # its pictures are made before the run, not in it
        start.wait()
        began = time.perf_counter()
        for request in itertools.chain([first], requests):
            asked = time.perf_counter()
            if answers and asked - began >= seconds:
                break
            try:
                status = _ask(connection, request)
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            answers.append((status, time.perf_counter() - asked))
            if status != 200:
                time.sleep(0.01)
    return answers


def _requests(kind: str, client: int, bits: int, images: int) -> Iterator[_Request]:
    """What a client asks for: others for each client, the same in each run."""
    rng = np.random.default_rng(client)
    if kind == "upload":
        bodies = [_form(_jpeg(rng)) for _ in range(_PICTURES)]
        for body in itertools.cycle(bodies):
            yield "POST", "/search", body, {"Content-Type": "multipart/form-data; boundary=x"}
    while True:
        if kind == "code":
            code = int(rng.integers(0, 1 << bits, dtype=np.uint64))
            yield "POST", "/search", json.dumps({"code": code, "k": 10}).encode(), {"Content-Type": "application/json"}
        else:
            yield "GET", f"/results?image={int(rng.integers(1, images + 1))}", None, {"Accept": "text/html"}


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    data = io.BytesIO()
    small.resize((640, 480), Image.Resampling.BICUBIC).save(data, "JPEG", quality=85)
    return data.getvalue()


def _form(data: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    return head + data + b"\r\n--x--\r\n"


def _connect(url: str) -> http.client.HTTPConnection:
    host = urlsplit(url)
    return http.client.HTTPConnection(str(host.hostname), host.port, timeout=120)


def _ask(connection: http.client.HTTPConnection, request: _Request) -> int:
    """The status of the answer, which is read to its end."""
    connection.request(*request)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _get(url: str, path: str) -> bytes:
    with contextlib.closing(_connect(url)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def _counters(url: str) -> dict[str, float]:
    """Of the model and of the server's processor time, so far."""
    lines = dict(line.rsplit(" ", 1) for line in _get(url, "/metrics").decode().splitlines() if line[:1] != "#")
    return {name: float(lines.get(counter, 0)) for name, counter in _COUNTERS.items()}


def generate_index(path: Path, card: ModelCard, images: int, seed: int = 0) -> None:
    """Write an index of any size with the card of a model: codes that cluster as those of pictures do, whose files are
    named and not there.

    Each logit is that of the row's class, one of images / 50 drawn at random, and normal noise half as large.
    """
    bits, rng = card.bits, np.random.default_rng(seed)
    classes = max(1, images // _A_CLASS)
    centres = rng.normal(size=(classes, bits)).astype(np.float32)
    Store.create(path, Meta(card, path.parent, None, (card.precision,)))
    store = Store.open(path, readonly=False, timeout=30)
    try:
        for first in range(0, images, _PART):
            of = rng.integers(0, classes, min(_PART, images - first))
            logits = centres[of] + 0.5 * rng.normal(size=(len(of), bits)).astype(np.float32)
            logits = np.clip(logits * (card.logit_scale / 4), -card.logit_scale, card.logit_scale)
            codes = pack_codes(logits >= 0)
            margins = encode_margins(codes, logits, bits, card.logit_scale)
            with store.change() as changes:
                changes.put(
                    Row(b"%d/%d.jpg" % (kind, first + i), 1, 1, codes[i].tobytes(), margins[i].tobytes(), b"%d" % kind)
                    for i, kind in enumerate(of.tolist())
                )
    finally:
        store.close()
    with HashIndex.open(path, readonly=True) as index:
        assert len(index) == images
