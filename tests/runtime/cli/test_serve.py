import os
import shutil
import signal
import subprocess
import time
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from queryopt.runtime import HashIndex
from queryopt.runtime.cli.serve import main

from ..serve.conftest import COMMAND, Client, Process, jpeg, make_index, serving

__all__ = ["make_index"]  # a fixture


@pytest.fixture(scope="module")
def plain(make_index):
    return make_index()


def invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_a_port_that_is_taken_is_said_so(plain):
    with serving(plain, "photos.db") as process:
        port = urlsplit(process.client.url).port
        result = invoke(plain / "photos.db", "--port", port)
    assert result.exit_code == 2
    assert f"port {port} is taken on 127.0.0.1" in result.output
    assert "--port 0" in result.output


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nothing.db"], 3, "there is no index here"),
        (["photos.db", "--host", "no.such.host.invalid"], 2, "give an address of this machine"),
        (["photos.db", "--host", "a" * 70], 2, "give an address of this machine"),
        (["photos.db", "--host", "203.0.113.7"], 2, "no address of this machine"),
        (["photos.db", "--bit-cards", "nothing.json"], 3, "qo-eval --bits-out"),
        (["photos.db", "--model", "nothing.onnx"], 3, "no such model"),
        (["photos.db", "--port", "70000"], 2, "from 0 to 65535"),
        (["pictures/finch/1.jpg"], 3, "not an index"),
    ],
)
def test_wrong_usage_is_one_line(plain, args, code, words, monkeypatch):
    monkeypatch.chdir(plain)
    result = invoke("--port", 0, *args)  # the default one may be in use here
    assert (result.exit_code, words in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


def test_without_an_index_its_own_way_to_give_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("--port", 0)
    assert (result.exit_code, "give one with qo-serve INDEX" in result.output) == (3, True), result.output


def test_a_model_of_another_checkpoint_is_refused(plain, changed_model, monkeypatch):
    def other(model):
        for prop in model.metadata_props:
            prop.value = prop.value.replace("9287e8b6", "00000000")

    monkeypatch.chdir(plain)
    result = invoke("photos.db", "--port", 0, "--model", changed_model(other))
    assert (result.exit_code, "another model" in result.output) == (2, True)


def test_missing_packages_are_named_with_the_extra(plain, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ImportError('no', name='uvicorn')")
    done = subprocess.run(
        [*COMMAND, str(plain / "photos.db")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "'.[serve]'" in done.stderr) == (4, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_stops_when_running_requests_are_done(plain, number, code):
    process = Process(plain, "photos.db")
    connection = process.client.connect()
    # A body that comes slowly: the request runs while the server is told to stop.
    body = jpeg((200, 200))
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    tail = b"\r\n--x--\r\n"

    def parts():
        yield head + body[:100]
        time.sleep(0.3)  # it is being worked on now
        process.running.send_signal(number)
        time.sleep(0.3)
        yield body[100:] + tail

    length = str(len(head) + len(body) + len(tail))
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": length}
    connection.request("POST", "/search", parts(), kind)
    reply = connection.getresponse()
    assert reply.status == 200
    assert b'"hits"' in reply.read()
    connection.close()
    said = process.running.communicate(timeout=20)[1]
    assert process.running.returncode == code, said
    assert said.endswith("stopped\n")
    assert not (plain / "photos.db-wal").exists()


def test_it_says_where_it_listens_and_stays_quiet_then(plain):
    running = subprocess.Popen(
        [*COMMAND, "photos.db", "--port", "0"], cwd=plain, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = running.stdout.readline()
    assert line.startswith("listening: http://127.0.0.1:")

    assert Client(line.split()[1]).get("/").status == 200
    running.send_signal(signal.SIGTERM)
    out, said = running.communicate(timeout=20)
    assert out == ""
    assert said.splitlines() == [
        "model: model.onnx (onnxruntime " + said.partition("(onnxruntime ")[2].splitlines()[0],
        "index: photos.db (8 pictures)",
        "stopped",
    ]


def test_another_host_is_warned_of(plain):
    with serving(plain, "photos.db", "--host", "0.0.0.0") as process:
        assert process.client.url.startswith("http://")
        # It answers to the name that it says.
        name, port = urlsplit(process.client.url).netloc, urlsplit(process.client.url).port
        assert Client(f"http://127.0.0.1:{port}/").get("/healthz", Host=name).status == 200
        said = process.stop()[1]
    assert "no password" in said
    assert "docs/serve.md" in said


def test_an_index_alone_is_found_and_served_without_write_permission(plain, tmp_path, monkeypatch):
    shutil.copytree(plain, tmp_path / "x")
    before = (tmp_path / "x" / "photos.db").read_bytes()
    with serving(tmp_path / "x") as process:
        assert process.client.search(image=1).status == 200
    assert (tmp_path / "x" / "photos.db").read_bytes() == before


def test_bit_cards_are_shown(plain):
    import json

    cards = [
        {
            "bit": bit,
            "drop_loss": 0.01,
            "by_accuracy": {"attribute": f"<b>beak {bit}</b>", "positive": True, "score": 0.9, "p_holm": 0.01},
        }
        for bit in range(12)
    ]
    (plain / "bits.json").write_text(json.dumps({"bit_cards": {"cards": cards}}))
    with serving(plain, "photos.db", "--bit-cards", "bits.json") as process:
        assert process.client.get("/bits?bit=3").json()[0]["meaning"]["attribute"] == "<b>beak 3</b>"
        page = process.client.get("/browse/3").text
    assert "&lt;b&gt;beak 3&lt;/b&gt;" in page
    assert "<b>beak" not in page


def test_a_process_that_is_watched_ends_with_its_threads(plain):
    # What runs in the background, such as a look at all bits, is no reason to stay.
    process = Process(plain, "photos.db")
    for radius in range(4):
        process.client.get(f"/duplicates?radius={radius}")
    assert process.stop()[0] == 0
    with HashIndex.open(plain / "photos.db") as index:
        assert len(index) == 8
