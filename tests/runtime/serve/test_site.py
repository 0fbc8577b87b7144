"""What names, labels and cards do to the pages: nothing but be read."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from .conftest import Process, jpeg, serving

EVIL = "\"'><script>alert(1)</script><b onclick=x>&amp;\n\u202e"
SHOWN = EVIL.replace("\n", "\\n").replace("\u202e", "\\u202e")
NAME = EVIL.replace("/", "∕")  # a file's name has no slash
PAGES = (
    "/",
    "/all",
    "/results?image=1",
    "/results?image=1&rank=weighted&k=3",
    "/results?code=0x18c",
    "/browse",
    "/browse/1",
    "/picture/1",
    "/same-code",
    "/same-code?radius=2",
    "/duplicates",
    f"/results?image=1&label={quote(EVIL)}",
    "/docs",
    f"/results?code={quote(EVIL)}",
    f"/results?image=1&radius={quote(EVIL)}",
    f"/{quote(EVIL)}",
)


class Elements(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source.replace("<wbr>", ""))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def evil(make_index: Callable[..., Path]) -> Iterator[Process]:
    """Every folder and every picture is named so, and so is what each bit is about."""

    def change(pictures: Path) -> None:
        for number, one in enumerate(sorted(pictures.iterdir())):
            folder = pictures / f"{NAME}{number}"
            shutil.move(one, folder)
            for picture in list(folder.iterdir()):
                picture.rename(os.fsdecode(os.fsencode(folder / NAME) + b"\xff" + os.fsencode(picture.name)))

    folder = make_index(change)
    card = {
        "ones": 0.5,
        "drop_loss": 0.02,
        "by_accuracy": {"attribute": EVIL, "positive": True, "score": 1, "p_holm": 0},
    }
    cards = [{"bit": bit, **card} for bit in range(12)]
    (folder / "bits.json").write_text(json.dumps({"bit_cards": {"cards": cards}}))
    with serving(folder, "photos.db", "--bit-cards", "bits.json") as process:
        yield process


def check(reply_text: str) -> Elements:
    page = Elements(reply_text)
    assert page.tags.count("script") == 1  # our own
    assert "b" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "\u202e" not in reply_text
    return page


@pytest.mark.parametrize("path", PAGES)
def test_names_labels_and_cards_are_text(evil, path):
    check(evil.client.get(path, Accept="text/html").text)


def test_they_are_shown_as_they_are(evil):
    page = check(evil.client.get("/results?image=1", Accept="text/html").text)
    assert NAME.replace("\n", "\\n").replace("\u202e", "\\u202e") + "\\udcff" in page.text
    assert f"follows {SHOWN}" in check(evil.client.get("/browse/1", Accept="text/html").text).text


def test_the_name_of_an_upload_is_text(evil):
    name = "a'><script>alert(1)<b onclick=x>&\u202e.jpg"
    reply = evil.client.upload(jpeg(), name=name, path="/upload", headers={"Accept": "application/json"})
    page = check(evil.client.get(reply.json()["location"], Accept="text/html").text)
    assert name.replace("\u202e", "\\u202e") in page.text
