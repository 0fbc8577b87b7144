import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from queryopt.runtime import Hasher, HashIndex
from queryopt.runtime.serve import Gallery, ServeSettings, create_app
from queryopt.runtime.serve.guard import HEADERS
from queryopt.runtime.serve.pictures import Jpeg

from .conftest import jpeg, served


@pytest.fixture(scope="module")
def small(folder):
    """A server with small limits: 100 kB of a body, 2 requests at once, half a second for a body."""
    index = HashIndex.open(folder / "photos.db", readonly=True)
    settings = ServeSettings(
        hosts=("birds.example",), max_upload=100_000, requests=2, upload_seconds=0.5, max_pixels=1_000_000
    )
    gallery = Gallery(index, Hasher(folder / "model.onnx", threads=1), settings)
    with served(create_app(gallery)) as client:
        yield client
    gallery.close()


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "127.0.0.1:9", "[::1]:8321", "birds.example", "10.0.0.7"]
)
def test_it_answers_to_its_names(small, host):
    assert small.get("/healthz", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "localhost.evil.example", "127.0.0.1.evil.example", ""]
)
def test_a_foreign_name_that_leads_here_reads_nothing(small, host):
    for path in ("/", "/healthz", "/image/1", "/metrics"):
        reply = small.get(path, Host=host)
        assert (reply.status, "--allow-host" in reply.detail) == (421, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_pages_of_other_sites_can_not_send_anything(small, headers):
    for path in ("/search", "/upload"):
        assert small.upload(jpeg(), path=path, headers=headers).status == 403


def test_its_own_pages_and_programs_can(small):
    host = urlsplit(small.url).netloc
    own = {"Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
    assert small.upload(jpeg(), headers=own).status == 200
    proxied = {"Origin": "https://birds.example", "Host": "birds.example"}
    assert small.upload(jpeg(), headers=proxied).status == 200
    assert small.upload(jpeg()).status == 200


def test_every_answer_has_the_headers(small):
    replies = [
        small.get(path) for path in ("/", "/image/1", "/static/app.js", "/nowhere", "/image/99", "/docs", "/healthz")
    ]
    replies += [small.get("/", Host="evil.example"), small.search(), small.upload(b"x")]
    for reply in replies:
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_head_is_get_without_a_body(small):
    for path in ("/", "/image/1", "/healthz"):
        reply, whole = small.send("HEAD", path), small.get(path)
        assert (reply.status, reply.data) == (200, b"")
        assert reply.headers["content-type"] == whole.headers["content-type"]


def test_a_body_that_says_it_is_too_large_is_not_read(small):
    reply = small.send("POST", "/search", b"", Content_Length="100000000", Content_Type="application/json")
    assert reply.status == 413


def test_a_body_that_does_not_say_its_size_is_cut_on_its_way(small):
    connection = small.connect()
    sent = 0

    def parts():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(2000):
            sent += 10_000
            yield b"\0" * 10_000

    try:
        connection.request("POST", "/search", parts(), {"Content-Type": "multipart/form-data; boundary=x"})
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up on us
    assert sent <= 20_000_000
    connection.close()
    assert small.get("/healthz").status == 200


def test_the_pixels_of_an_upload_are_limited(small):
    reply = small.upload(jpeg((1100, 1000)))
    assert (reply.status, "1,000,000 pixels" in reply.detail) == (400, True)
    assert small.upload(jpeg((1000, 1000))).status == 200


def test_a_body_that_never_comes_is_not_waited_for(small):
    host = urlsplit(small.url)
    with socket.create_connection((host.hostname, host.port), timeout=10) as line:
        line.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: 50\r\n\r\n{")
        assert b" 408 " in line.recv(1000)


def test_a_request_whose_head_never_ends_is_given_up(folder):
    index = HashIndex.open(folder / "photos.db", readonly=True)
    gallery = Gallery(index, None, ServeSettings())
    with served(create_app(gallery), head_seconds=0.2) as client:
        address = urlsplit(client.url)
        half = [socket.create_connection((address.hostname, address.port)) for _ in range(3)]
        half[1].send(b"GET / HTTP/1.1\r\n")
        half[2].send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\n")
        for connection in half:
            connection.settimeout(10)
            while connection.recv(65_536):  # until it is closed
                pass
            connection.close()
        assert client.get("/healthz").status == 200
    gallery.close()


def test_a_client_that_hangs_up_in_the_middle_is_no_error_of_the_server(small, caplog):
    host = urlsplit(small.url)
    with socket.create_connection((host.hostname, host.port), timeout=10) as line:
        line.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: 50\r\n\r\n{")
        time.sleep(0.1)
    time.sleep(0.3)
    assert 'status="500"' not in small.get("/metrics").text
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_what_still_arrives_when_the_server_ends_is_told_to_come_again(folder, caplog):
    index = HashIndex.open(folder / "photos.db", readonly=True)
    gallery = Gallery(index)
    with served(create_app(gallery), grace=1) as client:
        host = urlsplit(client.url)
        line = socket.create_connection((host.hostname, host.port), timeout=10)
        line.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: 50\r\n\r\n{")
        time.sleep(0.1)  # it is being worked on now
    with line:
        assert b" 503 " in line.recv(1000)
    gallery.close()
    assert "Exception" not in caplog.text


def test_too_many_at_once_are_told_to_come_again(small):
    # Two bodies that don't come hold both places.
    host = urlsplit(small.url)
    lines = [socket.create_connection((host.hostname, host.port), timeout=10) for _ in range(2)]
    for line in lines:
        line.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: 50\r\n\r\n{")
    time.sleep(0.1)
    reply = small.search(image=1)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert small.get("/healthz").status == 200  # whoever watches the server still can
    for line in lines:
        line.recv(1000)
        line.close()
    assert small.search(image=1).status == 200


def test_a_bug_is_told_without_a_traceback_and_logged_with_it(folder, caplog):
    index = HashIndex.open(folder / "photos.db", readonly=True)
    gallery = Gallery(index)
    gallery.search = None
    with served(create_app(gallery)) as client:
        reply = client.search(image=1)
    gallery.close()
    assert (reply.status, reply.detail) == (500, "the server failed; its log says why")
    assert "TypeError" in caplog.text


def test_many_at_once_get_their_own_answers(client, index):
    replies = {}

    def ask(id):
        replies[id] = client.upload(Path(index[id].path).read_bytes(), k=1).json()["hits"][0]["distance"]

    threads = [threading.Thread(target=ask, args=(id,)) for id in (1, 2, 3, 4, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == dict.fromkeys((1, 2, 3, 4, 5, 6), 0)


def test_health_is_told_while_pictures_hold_every_thread(folder, monkeypatch):
    """Some pictures take seconds to decode; who watches the server must not take it for dead."""
    gallery = Gallery(HashIndex.open(folder / "photos.db", readonly=True), None, ServeSettings())
    free = threading.Event()
    monkeypatch.setattr(gallery, "jpeg", lambda *args: free.wait(60) and Jpeg(b"", "tag"))
    with served(create_app(gallery)) as client:
        waiting = [threading.Thread(target=client.get, args=("/image/1",)) for _ in range(50)]
        for thread in waiting:
            thread.start()
        try:
            time.sleep(0.3)
            assert client.get("/healthz").status == 200
            assert not free.is_set()
        finally:
            free.set()
            for thread in waiting:
                thread.join()
    gallery.close()
