"""A real server of the frozen pictures, and a client that sends what it is told."""

import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from queryopt.runtime import Hasher, HashIndex

HTML_NAME = '<img src=x onerror=document.title="owned">.jpg'
COMMAND = (sys.executable, "-c", "import sys; from queryopt.runtime.cli.serve import main; sys.exit(main())")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    data: bytes

    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def detail(self) -> str:
        return str(self.json()["detail"])


@dataclass(frozen=True)
class Client:
    url: str

    def connect(self) -> http.client.HTTPConnection:
        host = urlsplit(self.url)
        return http.client.HTTPConnection(str(host.hostname), host.port, timeout=30)

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            reply = connection.getresponse()
            lower = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, lower, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, None, **headers)

    def search(self, **fields: Any) -> Reply:
        return self.send("POST", "/search", json.dumps(fields).encode(), Content_Type="application/json")

    def upload(
        self, data: bytes, name: str = "a.jpg", path: str = "/search", headers: Any = (), **fields: Any
    ) -> Reply:
        boundary = uuid.uuid4().hex
        quoted = name.replace('"', "%22")
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
            for field, value in fields.items()
        ]
        parts += [
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'.encode(),
            data,
            f"\r\n--{boundary}--\r\n".encode(),
        ]
        named: dict[str, Any] = {"Content_Type": f"multipart/form-data; boundary={boundary}"}
        return self.send("POST", path, b"".join(parts), **(named | dict(headers)))


class Process:
    """qo-serve in a process of its own, on any free port."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.running = subprocess.Popen(
            [*COMMAND, *args, "--port", "0", "--json", "--threads", "1"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.running.stdout is not None
        lines: list[str] = []
        for line in self.running.stdout:
            lines.append(line)
            if line == "}\n":
                break
        if not lines:
            raise AssertionError(self.running.communicate()[1])
        self.facts: dict[str, Any] = json.loads("".join(lines))
        self.client = Client(self.facts["url"])

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, what it said)"""
        if self.running.poll() is None:
            self.running.send_signal(number)
        said = self.running.communicate(timeout=30)[1]
        return self.running.returncode, said


@contextmanager
def serving(folder: Path, *args: str) -> Iterator[Process]:
    process = Process(folder, *args)
    try:
        yield process
    finally:
        process.stop()


def jpeg(size: tuple[int, int] = (90, 60), colour: Any = (200, 30, 30), **options: Any) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG", **options)
    return data.getvalue()


@pytest.fixture(scope="session")
def make_index(
    frozen_pictures: Path, explained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """(change=None, model=explained) -> a folder with pictures/, model.onnx, photos.db; change(pictures) is first."""

    def make(change: Callable[[Path], object] | None = None, model: Path = explained_model) -> Path:
        folder = tmp_path_factory.mktemp("served")
        shutil.copytree(frozen_pictures, folder / "pictures")
        shutil.copy(model, folder / "model.onnx")
        if change is not None:
            change(folder / "pictures")
        with (
            Hasher(folder / "model.onnx", threads=1) as hasher,
            HashIndex.create(folder / "photos.db", hasher.card, folder / "pictures", folder / "model.onnx") as index,
        ):
            index.update(hasher)
        return folder

    return make


def _awkward(pictures: Path) -> None:
    shutil.copy(pictures / "finch" / "1.jpg", pictures / HTML_NAME)
    outside = pictures.parent / "outside.jpg"
    shutil.copy(pictures / "heron" / "1.jpg", outside)
    (pictures / "heron" / "leaves.jpg").symlink_to(outside)
    shutil.copy(pictures / "heron" / "1.jpg", pictures / "heron" / "vanishes.jpg")
    shutil.copy(pictures / "heron" / "2.jpg", os.fsdecode(os.fsencode(pictures / "heron") + b"/\xff\n.jpg"))


@pytest.fixture(scope="session")
def folder(make_index: Callable[..., Path]) -> Path:
    """Twelve pictures: one named as HTML, one that leads out of the root, one that is gone, one that is no UTF-8."""
    made = make_index(_awkward)
    (made / "pictures" / "heron" / "vanishes.jpg").unlink()
    return made


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Process]:
    with serving(folder, "photos.db") as process:
        yield process


@pytest.fixture(scope="session")
def client(server: Process) -> Client:
    return server.client


@pytest.fixture(scope="session")
def index(folder: Path) -> Iterator[HashIndex]:
    with HashIndex.open(folder / "photos.db", readonly=True) as opened:
        yield opened


@contextmanager
def served(app: Any, grace: int | None = None, head_seconds: float = 15) -> Iterator[Client]:
    """An ASGI application behind a real server, in this process. grace: seconds that requests get at its end."""
    import uvicorn

    from queryopt.runtime.serve.server import open_socket, url_of, waiting_protocol

    listener = open_socket("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        http=waiting_protocol(head_seconds),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=grace,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Client(url_of(listener))
    finally:
        running.should_exit = True
        thread.join()
        listener.close()
