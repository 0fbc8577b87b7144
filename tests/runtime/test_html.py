import base64
import hashlib
import io
import os
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from PIL import Image

from queryopt.card import Preprocessing
from queryopt.codes import pack_codes
from queryopt.runtime import html as module
from queryopt.runtime.hits import FailedQuery, Hit, QueryResult, differing_bits
from queryopt.runtime.html import HtmlPage
from queryopt.runtime.pages import templates
from queryopt.runtime.thumbnails import Thumbnails

BITS = 12
CROP = Preprocessing.for_size(64)


class Page(HTMLParser):
    """The elements of a page: (tag, attributes), the text, and that tags are closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        source = source.replace("<wbr>", "")  # only says where a line may break
        self.elements, self.texts, self.open, self.source = [], [], [], source
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag, class_=""):
        return [a for t, a in self.elements if t == tag and class_ in ["", *(a.get("class") or "").split()]]


@pytest.fixture
def picture(tmp_path):
    def make(name, colour=(200, 30, 30), size=(300, 200), **options):
        path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
        with open(path, "wb") as file:
            Image.new("RGB", size, colour).save(file, "JPEG", **options)
        return path

    return make


def code(*ones):
    return pack_codes(np.isin(np.arange(BITS), ones)[None])[0]


def hit(path, query_code, hit_code, rank=1, **values):
    differs = differing_bits(query_code, hit_code)
    values = {"label": None, "margins": None, "score": None, "stale": False, "missing": False} | values
    values.setdefault("name", os.path.basename(path))
    return Hit(rank=rank, distance=len(differs), id=rank, path=path, code=hit_code, differs=differs, **values)


def query(path, query_code, hits=(), **values):
    values = {"label": None, "margins": None, "id": None, "stored": False} | values
    return QueryResult(path=path, bits=BITS, code=query_code, hits=tuple(hits), **values)


def render(*results, title="Search results", facts=None, thumbnails=None, note="", preprocessing=CROP, folder=None):
    file = io.StringIO()
    page = HtmlPage(file, title, facts or {}, preprocessing, folder, thumbnails)
    for result in results:
        (page.add_failed if isinstance(result, FailedQuery) else page.add)(result)
    page.finish(note)
    return Page(file.getvalue())


def test_hits_are_cards_in_order_with_what_differs(picture):
    asked = code(0, 3, 5)
    hits = [
        hit(picture("same.jpg"), asked, asked, 1, label="finch"),
        hit(picture("near.jpg"), asked, code(0, 3, 11), 2, label="warbler"),
    ]
    page = render(query(picture("query.jpg"), asked, hits, label="finch"))
    cards = page.source.split('class="card"')[1:]
    assert len(cards) == 2
    assert "same.jpg" in cards[0]
    assert "the same code" in cards[0]
    assert "the class of the query" in cards[0]
    assert "near.jpg" in cards[1]
    assert "the class of the query" not in cards[1]
    # Bit 5 is the query's alone, bit 11 the hit's alone.
    assert re.findall(r"<li>(\d+) <span>(\d→\d)</span>", cards[1]) == [("5", "1→0"), ("11", "0→1")]
    assert re.findall(r'class="(\w+) other"[^>]*><title>bit (\d+): query (\d), this (\d)', cards[1]) == [
        ("zero", "5", "1", "0"),
        ("one", "11", "0", "1"),
    ]
    assert page.text.count("2 hits, 0 to 2 bits away") == 1
    assert [i["alt"] for i in page.all("img")] == [
        f"Query 1: {os.fsdecode(hits[0].path.replace(b'same', b'query'))}",
        "Hit 1, finch: same.jpg",
        "Hit 2, warbler: near.jpg",
    ]


@pytest.mark.parametrize("bits", [1, 12, 24, 31, 48, 64])
def test_a_strip_shows_every_bit_once_within_its_frame(bits):
    values = np.arange(bits) % 3 == 0
    draw = templates().get_template("hits.html.jinja").module
    strip = draw.code_strip(pack_codes(values[None])[0], bits, None, (), "code")
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', strip).groups())
    cells = re.findall(r'<rect class="(\w+)" x="(\d+)" y="(\d+)".*?bit (\d+): (\d)', strip)
    assert [int(c[3]) for c in cells] == list(range(bits))
    assert [c[0] == "one" for c in cells] == values.tolist() == [c[4] == "1" for c in cells]
    assert len({c[1:3] for c in cells}) == bits
    assert all(int(x) < width and int(y) + 8 < height for _, x, y, _, _ in cells)
    ruler = re.findall(r'<text x="(\d+)" y="(\d+)">(\d+)</text>', strip)
    assert [int(number) for _, _, number in ruler] == list(range(0, bits, 8))
    for x, y, number in ruler:
        _, cell_x, cell_y, _, _ = cells[int(number)]
        assert x == cell_x
        assert int(cell_y) - 6 < int(y) < int(cell_y), "above its square, below the row before"


def test_a_hit_that_is_the_query_itself_says_so(picture):
    asked, path = code(1), picture("q.jpg")
    hits = [hit(path, asked, asked, 1), hit(picture("h.jpg"), asked, asked, 2)]
    cards = render(query(path, asked, hits, id=1)).source.split('class="card"')[1:]
    assert ["the query itself" in card for card in cards] == [True, False]
    page = render(query(path, asked, hits))
    assert not any("the query itself" in card for card in page.source.split('class="card"')[1:])
    [legend] = re.findall(r'<p class="legend">.*?</p>', page.source, re.DOTALL)
    for mark in ("the query itself", "✓", "numbers above the squares"):
        assert mark in legend


def test_margins_shade_the_bits(picture):
    margins = np.array([127, -127, 1, -1] + [30] * 8, np.int8)
    page = render(query(picture("q.jpg"), code(0, 2, *range(4, 12)), margins=margins))
    shades = [a["class"] for a in page.all("rect") if "class" in a][-BITS:]
    assert shades[:4] == ["one m3", "zero m3", "one m0", "zero m0"]
    assert "bit 3: 0, margin 1 of 127" in page.text


def test_nothing_comes_from_outside_and_the_policy_holds_it_so(picture):
    asked = code(1)
    page = render(query(picture("q.jpg"), asked, [hit(picture("h.jpg"), asked, code(2), label="a")]))
    outside = r"https?:|[\"' ]//|url\(|@import|<script|<link|<iframe|javascript:|\son\w+=|\sstyle="
    assert not re.search(outside, page.source, re.IGNORECASE)
    assert {a["src"].partition(",")[0] for a in page.all("img")} == {"data:image/jpeg;base64"}
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)[1]
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{allowed}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_names_labels_and_reasons_are_escaped(picture):
    evil = "<img src=x onerror=alert(1)>\"'&\n\u202e"
    asked = code(1)
    named = os.fsencode("a<b>&\"'\n") + b"\xff.jpg"
    hits = [hit(picture(named), asked, code(2), label=evil), hit(picture(b"\xe9<i>.jpg"), asked, code(3), 2)]
    bad = FailedQuery(b"x/<s>\xff.jpg", evil)
    tame = [hit(picture("h.jpg"), asked, code(2), label="a"), hit(picture("i.jpg"), asked, code(3))]
    ours = render(query(picture("q.jpg"), asked, tame, label="a"), FailedQuery(b"x", "y"), facts={"a": "b"}, note="c")
    page = render(query(picture("q<u>.jpg"), asked, hits, label=evil), bad, title=evil, facts={evil: evil}, note=evil)
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in ours.elements}
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert "\u202e" not in page.source
    assert "<img src=x onerror=alert(1)>\"'&\\n\\u202e" in page.text
    assert "a<b>&\"'\\n\\udcff.jpg" in page.text
    page.source.encode("utf-8")


def test_a_vanished_or_unreadable_file_has_a_placeholder(tmp_path, picture):
    asked = code(1)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    hits = [
        hit(os.fsencode(tmp_path / "gone.jpg"), asked, code(2), missing=True),
        hit(os.fsencode(broken), asked, code(3), 2, stale=True),
    ]
    page = render(query(picture("q.jpg"), asked, hits))
    assert len(page.all("img")) == 1
    labels = [a["aria-label"] for a in page.all("div", class_="placeholder")]
    assert labels[0] == "Hit 1: gone.jpg (file not found)"
    assert labels[1].startswith("Hit 2: broken.jpg (")
    assert "code of an earlier state of this file" in page.text


def test_thumbnails_are_small_upright_jpegs_made_once(picture, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = picture("big.jpg", size=(1200, 800), exif=exif)
    thumbnails = Thumbnails()
    source = thumbnails.get(path, 160).source
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (107, 160))
    small = thumbnails.get(picture("small.jpg", size=(90, 40)), 160).source
    with Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))) as image:
        assert image.size == (90, 40), "never enlarged"
    os.remove(path)
    asked = code(1)
    page = render(*(query(path, asked, [hit(path, asked, asked)]) for _ in range(2)), thumbnails=thumbnails)
    assert thumbnails.get(path, 160).source == source
    # Sizes that were not asked for before the file went are not there.
    assert len(page.all("img")) == 0


def test_a_picture_opens_its_file_wherever_the_page_lies(picture, tmp_path):
    (tmp_path / "a b").mkdir()
    path = picture("a b/50%#1?.jpg")
    asked = code(1)
    result = query(path, asked, [hit(path, asked, asked)])
    beside, elsewhere = render(result, folder=tmp_path), render(result, folder=tmp_path / "a")
    assert [a["href"] for a in beside.all("a")] == ["./a%20b/50%25%231%3F.jpg"] * 2
    for page in (elsewhere, render(result)):
        assert [url2pathname(urlsplit(a["href"]).path) for a in page.all("a")] == [os.fsdecode(path)] * 2
    assert os.fsdecode(path) in beside.text  # to be copied


def test_pictures_are_whole_and_what_the_model_saw_is_outlined(picture):
    asked, path = code(1), picture("wide.jpg", size=(300, 200))
    result = query(path, asked, [hit(path, asked, asked)])
    page = render(result, preprocessing=Preprocessing(64, 80))
    assert len(page.all("svg", class_="seen")) == 2
    [outline] = {(a["x"], a["y"], a["width"]) for a in page.all("rect") if "width" in a and a["width"] == "160.0"}
    assert outline == ("70.0", "20.0", "160.0")  # the middle 64 of 80 pixels of the shorter side
    assert not render(result, preprocessing=Preprocessing.for_size(64, "pad")).all("svg", class_="seen")


def test_the_thumbnails_kept_are_bounded(picture):
    thumbnails = Thumbnails(keep=2)
    paths = [picture(f"{i}.jpg") for i in range(3)]
    for path in paths:
        assert thumbnails.get(path, 64).source
        os.remove(path)
    assert [thumbnails.get(path, 64).source is not None for path in reversed(paths)] == [True, True, False]


def test_more_hits_than_a_page_shows_are_counted(picture, monkeypatch):
    monkeypatch.setattr(module, "MAX_HITS", 2)
    asked, path = code(1), picture("h.jpg")
    page = render(query(path, asked, [hit(path, asked, asked, rank) for rank in range(1, 6)]), query(path, asked))
    assert len(page.all("li", class_="card")) == 2
    assert "3 more hits not shown." in page.text
    assert "5 hits, 0 bits away" in page.text
    assert "Nothing found." in page.text
    assert "2 queries. " in page.text
