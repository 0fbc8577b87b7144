"""What docs/serve.md shows runs."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import HTML_NAME

PAGE = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()
CURLS = re.findall(r"^\$ (curl .*)$", PAGE, re.M)
(SNIPPET,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def here(text, client):
    assert "http://127.0.0.1:8321" in text
    return text.replace("http://127.0.0.1:8321", client.url.rstrip("/"))


@pytest.mark.needs("curl")
@pytest.mark.parametrize("command", CURLS)
def test_curl_gets_an_answer(command, client, folder, tmp_path):
    shutil.copy(folder / "pictures" / "finch" / "1.jpg", tmp_path / "query.jpg")
    words = shlex.split(here(command, client))
    done = subprocess.run([*words, "--fail-with-body"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    if "-o" in words:
        assert (tmp_path / "1.jpg").read_bytes()[:2] == b"\xff\xd8"
    else:
        assert json.loads(done.stdout)


def test_the_snippet_prints_hits(client):
    done = subprocess.run([sys.executable, "-c", here(SNIPPET, client)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0] == "0 finch/1.jpg {}"  # picture 1 is its copy, named as HTML
    assert HTML_NAME not in done.stdout


def test_every_operation_is_on_the_page(client):
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in PAGE


def test_the_limits_are_those_of_the_code():
    from queryopt.runtime.cli.serve import main
    from queryopt.runtime.serve.gallery import ServeSettings

    settings = ServeSettings()
    assert f"up to {settings.wait_ms} ms" in PAGE
    assert f"{settings.queue} pictures may wait, {settings.requests} requests be worked on" in PAGE
    assert f"the last {settings.queries} are kept" in PAGE
    assert settings.image_bytes == 64 << 20
    for option in re.findall(r"--[a-z]+(?:-[a-z]+)+", PAGE):
        known = {name for parameter in main.params for name in parameter.opts}
        assert option in known | {"--bits-out"}, option
