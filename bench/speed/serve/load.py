"""A bounded load on a qo-serve of this machine: closed-loop clients, each on a connection of its own."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from queryopt.bench.machine import describe_machine, load_average
from queryopt.errors import MissingError, UsageError

__all__ = ["KINDS", "LoadReport", "LoadRow", "measure_load"]

KINDS = ("code", "page", "upload")
"""code: POST /search with a code, 10 hits as JSON. page: the page of hits of a picture of the index, 24 of 96 hits as
HTML. upload: POST /search with a JPEG of 640 x 480 pixels, which the model hashes."""

_PICTURES = 16
_MOST_SECONDS = 60
_COUNTERS = (
    "queryopt_model_run_seconds_sum",
    "queryopt_model_run_seconds_count",
    "queryopt_model_run_pictures_sum",
    "process_cpu_seconds_total",
)


@dataclass(frozen=True)
class LoadRow:
    """What so many clients got, who ask again as soon as they have an answer.

    requests: that were answered with 200. refused: with 503. failed: otherwise. seconds: of the run. p50_ms, p95_ms,
    p99_ms: of the answered ones. model_ms: mean time of a run of the model. pictures_a_run: in the mean; both None
    where it did not run. cpu_ms: processor time of the server, all its threads, for each answer: others' work on the
    machine leaves it nearly alone; None where the system doesn't say.
    """

    kind: str
    clients: int
    requests: int
    refused: int
    failed: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    model_ms: float | None
    pictures_a_run: float | None
    cpu_ms: float | None = None

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class LoadReport:
    """All of it. load_before: of the machine, before the first run."""

    images: int
    bits: int
    model: str
    threads: int | None
    machine: str
    load_before: float | None
    rows: tuple[LoadRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        rows = [asdict(row) | {"per_second": row.per_second} for row in self.rows]
        return asdict(self) | {"rows": rows}


def measure_load(
    index: Path,
    model: Path,
    kinds: Sequence[str] = KINDS,
    clients: Sequence[int] = (1, 8, 32),
    seconds: float = 5,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> LoadReport:
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
        _warm_up(url)
        for kind, count in itertools.product(kinds, clients):
            rows.append(_run(url, kind, count, seconds, health["bits"], health["images"]))
            progress(1)
    return LoadReport(
        health["images"], health["bits"], health["model"], threads, describe_machine(), before, tuple(rows)
    )


@contextmanager
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


def _warm_up(url: str) -> None:
    for kind in KINDS:
        connection = _connect(url)
        for request in itertools.islice(_requests(kind, 0, 8, 1), 3):
            connection.request(*request)
            connection.getresponse().read()
        connection.close()


def _run(url: str, kind: str, clients: int, seconds: float, bits: int, images: int) -> LoadRow:
    taken: list[list[float]] = [[] for _ in range(clients)]
    others: list[list[int]] = [[] for _ in range(clients)]
    start, until = threading.Barrier(clients + 1), [0.0]

    def client(number: int) -> None:
        connection = _connect(url)
        requests = _requests(kind, number, bits, images)
        first = next(requests)  # its pictures are made before the run, not in it
        start.wait()
        for request in itertools.chain([first], requests):
            began = time.perf_counter()
            if began >= until[0] and (taken[number] or others[number]):
                break  # each has asked once, however slow the machine is
            try:
                connection.request(*request)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            if status == 200:
                taken[number].append(time.perf_counter() - began)
            else:
                others[number].append(status)
                time.sleep(0.01)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    before = _counters(url)
    began = time.perf_counter()
    until[0] = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    runs = [now - then for now, then in zip(_counters(url), before, strict=True)]
    times = np.concatenate([np.array(one) for one in taken]) * 1000
    statuses = list(itertools.chain(*others))
    p50, p95, p99 = (float(np.percentile(times, q)) if len(times) else float("nan") for q in (50, 95, 99))
    return LoadRow(
        kind,
        clients,
        len(times),
        statuses.count(503),
        len(statuses) - statuses.count(503),
        took,
        p50,
        p95,
        p99,
        1000 * runs[0] / runs[1] if runs[1] else None,
        runs[2] / runs[1] if runs[1] else None,
        1000 * runs[3] / len(times) if runs[3] and len(times) else None,
    )


def _requests(
    kind: str, client: int, bits: int, images: int
) -> Iterator[tuple[str, str, bytes | None, dict[str, str]]]:
    """What a client asks for, others for each client, the same in each run: (method, path, body, headers)."""
    rng = np.random.default_rng(client)
    if kind == "upload":
        bodies = [_form(_jpeg(rng)) for _ in range(_PICTURES)]
        while True:
            for body in bodies:
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


def _get(url: str, path: str) -> bytes:
    connection = _connect(url)
    connection.request("GET", path)
    data = connection.getresponse().read()
    connection.close()
    return data


def _counters(url: str) -> list[float]:
    """Seconds, runs and pictures of the model, and the server's processor time, so far."""
    lines = dict(line.rsplit(" ", 1) for line in _get(url, "/metrics").decode().splitlines() if line[:1] != "#")
    return [float(lines.get(name, 0)) for name in _COUNTERS]
