"""What a person does with the pages, in a real Chromium."""

import csv
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from queryopt.images import crop_box
from queryopt.runtime import HashIndex

from .conftest import HTML_NAME, Process, jpeg, serving

pytestmark = pytest.mark.needs("chromium")

_OPTIONS = (
    "--no-sandbox",  # it refuses to run as root without
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_BIRD = "rect[data-bit='5']"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Each has a profile of its own, in a new folder."""
    from playwright.sync_api import sync_playwright

    path = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(_OPTIONS))
        yield opened
        opened.close()


class Visitor:
    """A tab. It notes what the console says and which hosts are asked."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.said: list[str] = []
        self.asked: set[str] = set()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.add("/".join(request.url.split("/")[:3])))

    def go(self, path: str = "/") -> Any:
        self.page.goto(self.url.rstrip("/") + path)
        return self.page

    def until(self, condition: str) -> None:
        """Wait until this expression is true. (Playwright's own way needs `eval`, which the policy refuses.)"""
        end = time.monotonic() + 20
        while not self.page.evaluate(f"() => Boolean({condition})"):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(20)

    def upload(self, path: Path | dict[str, Any]) -> None:
        self.page.set_input_files(".file", path)

    def hits(self) -> list[str]:
        self.page.wait_for_selector("ol.hits")
        return [str(title) for title in self.page.eval_on_selector_all(".card h3", "all => all.map(one => one.title)")]

    def maps(self) -> int:
        return int(self.page.eval_on_selector_all(".view canvas", "all => all.length"))


@pytest.fixture
def visit(browser: Any, server: Process) -> Iterator[Callable[..., Visitor]]:
    """(url=…, allowed=…, viewport and the like) -> a visitor; in the end the console held nothing but what matches
    `allowed`, and no other host was asked.
    """
    opened: list[tuple[Any, Visitor, str]] = []

    def open_one(url: str = server.client.url, allowed: str = "(?!)", **options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 1000}, **options})
        visitor = Visitor(context.new_page(), url)
        opened.append((context, visitor, allowed))
        return visitor

    yield open_one
    for context, visitor, allowed in opened:
        context.close()
        assert not [line for line in visitor.said if not re.search(allowed, line)]
        assert visitor.asked <= {visitor.url.rstrip("/")}


@pytest.fixture(scope="module")
def many(make_index: Callable[..., Path]) -> Iterator[Process]:
    """Sixty pictures: three pages of them."""

    def add(pictures: Path) -> None:
        for number in range(52):
            (pictures / "finch" / f"n{number:02}.jpg").write_bytes(jpeg((60, 60), (4 * number, 200 - 3 * number, 90)))

    with serving(make_index(add), "photos.db") as process:
        yield process


def test_a_picture_is_uploaded_and_its_hits_are_in_order(visit, folder, client):
    visitor = visit()
    visitor.go()
    picture = folder / "pictures" / "heron" / "3.jpg"
    visitor.upload(picture)
    expected = client.upload(picture.read_bytes(), k=96).json()["hits"]
    assert visitor.hits() == [hit["path"] for hit in expected]
    distances = [
        0 if "same code" in text else int(re.search(r"(\d+) bit", text)[1])
        for text in visitor.page.locator(".card .distance").all_inner_texts()
    ]
    assert distances == [hit["distance"] for hit in expected]
    assert "/results?query=" in visitor.page.url
    assert "Nearest pictures" in visitor.page.inner_text("main")
    assert f"{len(expected)} hits" in visitor.page.inner_text("#status")  # for those who can't see them
    differing = visitor.page.locator(".card").nth(3).locator("rect.other").count()
    assert differing == distances[3]


def test_pictures_are_dropped_and_pasted(visit, folder):
    visitor = visit()
    page = visitor.go()
    data = list((folder / "pictures" / "finch" / "2.jpg").read_bytes())
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([kind, holder, data]) => {
                const held = new DataTransfer();
                held.items.add(new File([new Uint8Array(data)], kind + ".jpg", { type: "image/jpeg" }));
                const event = new (kind === "drop" ? DragEvent : ClipboardEvent)(
                    kind, { [holder]: held, bubbles: true, cancelable: true });
                document.querySelector("main").dispatchEvent(event);
            }""",
            [kind, holder, data],
        )
        visitor.until(f"document.title.includes('{kind}.jpg')")
        assert visitor.hits()[0] == "finch/2.jpg"


def test_pointing_at_a_bit_shows_where_it_looks_in_the_query_and_in_the_hit(visit):
    visitor = visit()
    page = visitor.go("/results?image=1")
    assert visitor.maps() == 0
    page.hover(f".card:nth-child(2) {_BIRD}")
    page.wait_for_selector("#asked-view canvas[data-bit='5']")
    page.wait_for_selector(".card:nth-child(2) canvas[data-bit='5']")
    assert visitor.maps() == 2
    pixels = page.evaluate(
        """() => { const one = document.querySelector("#asked-view canvas");
        return [one.width, ...one.getContext("2d").getImageData(0, 0, one.width, one.height).data]; }"""
    )
    assert pixels[0] == 4  # cells a side
    assert len(set(pixels[4::4])) > 3  # more transparent here than there
    page.hover("h1")
    visitor.until("document.querySelectorAll('.view canvas').length === 0")


def test_a_bit_that_is_clicked_has_a_panel_with_its_card(visit):
    visitor = visit()
    page = visitor.go("/results?image=1")
    page.click(f".card:nth-child(3) {_BIRD}")
    page.wait_for_selector("#lens[open] #lens-hit canvas[data-bit='5']")
    page.wait_for_selector("#lens-query canvas[data-bit='5']")
    assert page.inner_text("#lens-title") == "Bit 5"
    assert re.search(r"^[01], margin \d+ of 127$", page.inner_text("#lens-query-value"))
    page.wait_for_selector("#lens-card img")
    assert "of the pictures" in page.inner_text("#lens-card")
    page.click("#lens-next")
    page.wait_for_selector("#lens-hit canvas[data-bit='6']")
    page.keyboard.press("Escape")
    page.wait_for_selector("#lens", state="hidden")
    visitor.until("document.activeElement.closest('.card:nth-child(3)') !== null")
    page.click(f".card:nth-child(3) {_BIRD}")
    page.click("#lens-card >> text=Browse bit 5")
    visitor.until("document.querySelector('h1').textContent === 'Bit 5'")


def test_a_finger_on_a_phone_is_enough(visit):
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for path in ("/", "/results?image=1", "/picture/1", "/browse", "/browse/2", "/same-code", "/duplicates", "/docs"):
        page = visitor.go(path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    page = visitor.go("/results?image=1")
    page.tap(f".card:nth-child(2) {_BIRD}")
    page.wait_for_selector("#lens[open] #lens-hit canvas[data-bit='5']")
    box = page.locator("#lens").bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    page.tap("#lens-close")
    page.wait_for_selector("#lens", state="hidden")


def test_the_keyboard_alone_does_it_all(visit, folder):
    visitor = visit()
    page = visitor.go()
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("(document.activeElement.textContent || document.activeElement.id).trim()"))
        if page.evaluate("document.activeElement.matches('.grid a')"):
            break
    assert seen[0] == "Skip to the pictures"
    assert "drop-picture" in seen
    page.keyboard.press("Enter")  # open the picture that has the focus
    page.wait_for_selector("figure.large")
    page.go_back()
    page.wait_for_selector(".grid")
    page.focus(".grid .open")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # search with it
    page.wait_for_selector("ol.hits")
    assert page.evaluate("document.activeElement.id") == "found"
    for _ in range(2):
        page.keyboard.press("Shift+Tab")  # back from the hits to the controls: the label, the order
    assert page.evaluate("document.activeElement.id") == "rank"
    page.keyboard.press("m")  # margins
    page.wait_for_url("**rank=weighted**")
    visitor.until("document.activeElement.id === 'rank'")
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "listbox"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#asked-view canvas[data-bit='2']")
    assert page.evaluate("document.activeElement.getAttribute('aria-activedescendant')") == "q-2"
    page.keyboard.press("Enter")
    page.wait_for_selector("#lens[open]")
    page.keyboard.press("End")  # in the panel, too
    page.wait_for_selector("#lens-query canvas[data-bit='11']")
    page.keyboard.press("Escape")
    page.wait_for_selector("#lens", state="hidden")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "listbox"


def test_everything_has_a_name_for_a_screen_reader(visit):
    visitor = visit()
    for path in (
        "/",
        "/results?image=1",
        "/browse",
        "/picture/1",
        "/browse/1",
        "/same-code?radius=1",
        "/duplicates",
        "/docs",
    ):
        page = visitor.go(path)
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.locator("h1").count() == 1
        assert page.locator("main").count() == 1
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), select, img, svg[role]")]
            .filter((one) => !one.closest("dialog"))
            .filter((one) => !(one.textContent.trim() || one.getAttribute("aria-label") || one.hasAttribute("alt")
                || one.querySelector("img[alt]:not([alt=''])") || (one.labels && one.labels.length)))
            .map((one) => one.outerHTML)"""
        )
        assert unnamed == [], path


def test_hits_are_paged_and_the_way_back_is_kept(visit, many):
    visitor = visit(url=many.client.url)
    page = visitor.go("/results?image=1")
    whole = [hit["path"] for hit in many.client.search(image=1, k=96, exclude_self=True).json()["hits"]]
    assert len(whole) == 59
    assert visitor.hits() == whole[:24]
    page.evaluate("window.stays = true")
    page.click(".pager >> text=Next")
    page.wait_for_url("**page=2**")
    visitor.until("document.querySelector('.rank').textContent === '25'")
    assert visitor.hits() == whole[24:48]
    page.click(".pager >> text=3")
    visitor.until("document.querySelector('.rank').textContent === '49'")
    assert visitor.hits() == whole[48:]
    page.go_back()
    visitor.until("document.querySelector('.rank').textContent === '25'")
    assert visitor.hits() == whole[24:48]
    assert page.evaluate("window.stays")  # it was one page all the time
    page.reload()
    assert visitor.hits() == whole[24:48]


def test_k_and_radius_change_what_is_shown(visit, many):
    visitor = visit(url=many.client.url)
    page = visitor.go("/results?image=1")
    page.fill("#k", "5")
    page.keyboard.press("Tab")
    visitor.until("document.querySelectorAll('.card').length === 5")
    page.fill("#k", "96")
    page.fill("#radius", "2")
    page.keyboard.press("Enter")
    near = many.client.search(image=1, k=96, radius=2, exclude_self=True).json()["total"]
    visitor.until(f"document.querySelectorAll('.card').length === {min(near, 24)}")
    page.fill("#k", "0")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('k').matches(':invalid')")
    assert "k=0" not in page.url


def test_a_hit_opens_whole_with_an_outline_of_what_the_model_saw(visit, index, folder):
    visitor = visit()
    page = visitor.go("/results?image=1")
    name = visitor.hits()[1]
    image = index.find(name)
    width, height = page.locator(".card").nth(1).locator("img").evaluate("one => [one.naturalWidth, one.naturalHeight]")
    with Image.open(folder / "pictures" / name) as original:
        assert width / height == pytest.approx(original.width / original.height, abs=0.02)  # nothing is cut off
        left, top, right, _ = crop_box(original.size, index.card.preprocessing)
    box = (
        page.locator(".card")
        .nth(1)
        .locator(".seen rect")
        .nth(0)
        .evaluate("one => [one.x, one.y, one.width].map(length => length.baseVal.value)")
    )
    assert box == pytest.approx([left, top, right - left], abs=0.1)
    page.click(".card:nth-child(2) .picture")
    page.wait_for_url(f"**/picture/{image.id}")
    page.wait_for_selector("figure.large .seen")
    assert name in page.inner_text("main")
    page.click("main >> text=Search")
    page.wait_for_url(f"**/results?image={image.id}")


def test_hits_are_filtered_by_label_copied_and_exported(visit, client):
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.go("/results?image=1")
    every = visitor.hits()
    page.select_option("#label", "heron")
    page.wait_for_url("**label=heron**")
    visitor.until("document.getElementById('summary').textContent.includes('with the label heron')")
    herons = [name for name in every if name.startswith("heron/")]
    assert visitor.hits() == herons
    page.click(".card:nth-child(1) [data-copy]")
    visitor.until("document.getElementById('status').textContent.startsWith('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == herons[0]
    with page.expect_download() as download:
        page.click("text=CSV")
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [row["label"] for row in rows] == ["heron"] * len(herons)
    assert rows[0]["path"] == herons[0]
    with page.expect_download() as download:
        page.click("text=JSON")
    found = json.loads(download.value.path().read_text())
    assert [hit["label"] for hit in found["hits"]] == ["heron"] * len(herons)
    assert found["total"] == client.search(image=1, k=96, exclude_self=True, label="heron").json()["total"]


def test_browse_by_bit_shows_the_surest_pictures(visit, client):
    visitor = visit()
    page = visitor.go("/browse")
    page.wait_for_selector(".bit")
    assert page.locator(".bit").count() == 12
    page.click("text=Bit 7")
    visitor.until("document.querySelector('h1').textContent === 'Bit 7'")
    (bit,) = client.get("/bits?bit=7&count=24").json()
    for side, name in enumerate(("highest", "lowest")):
        links = page.locator(".sides section").nth(side).locator("a.open")
        shown = links.evaluate_all("all => all.map(one => one.pathname)")
        assert shown == [f"/picture/{image['id']}" for image in bit[name]]
    page.check("#show-maps")
    page.wait_for_selector(".sides canvas")
    page.uncheck("#show-maps")
    visitor.until("document.querySelectorAll('.sides canvas').length === 0")
    page.click(".sides a >> nth=0")
    page.wait_for_selector("figure.large")


def test_what_has_the_same_code_is_grouped(visit, folder):
    visitor = visit()
    page = visitor.go("/same-code")
    page.wait_for_selector(".group")
    groups = page.locator(".group").evaluate_all(
        "all => all.map(group => [...group.querySelectorAll('.grid .open')].map(one => one.title))"
    )
    assert sorted(groups[0]) == ["heron/1.jpg", "heron/leaves.jpg", "heron/vanishes.jpg"]
    assert sorted([HTML_NAME, "finch/1.jpg"]) in [sorted(group) for group in groups]
    page.click("text=within 2 bits")
    visitor.until("document.querySelector('.choices [aria-current]').textContent === 'within 2 bits'")


def test_copies_are_grouped_with_their_sizes(visit):
    visitor = visit()
    page = visitor.go("/duplicates")
    page.wait_for_selector(".group")
    groups = page.locator(".group").evaluate_all(
        "all => all.map(group => [...group.querySelectorAll('.grid .open')].map(one => one.title))"
    )
    assert sorted([HTML_NAME, "finch/1.jpg"]) in [sorted(group) for group in groups]
    assert re.search(r"\d+ × \d+, [\d.]+ (bytes|KiB); 0 bits, colours by 0.0", page.inner_text("main"))


@pytest.mark.parametrize("data", [b"no picture", b""], ids=["text", "empty"])
def test_a_bad_file_is_told_and_the_page_stays(visit, data):
    visitor = visit(allowed="400")
    page = visitor.go("/results?image=1")
    before = visitor.hits()
    visitor.upload({"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": data})
    page.wait_for_selector("#problem:visible")
    assert page.inner_text("#problem").startswith("notes.jpg: ")
    assert visitor.hits() == before
    visitor.upload({"name": "good.jpg", "mimeType": "image/jpeg", "buffer": jpeg()})
    page.wait_for_selector("#problem", state="hidden")
    visitor.until("document.title.startsWith('Like good.jpg')")


def test_names_that_are_html_are_text(visit, folder, index):
    visitor = visit()
    page = visitor.go(f"/results?image={index.find('finch/1.jpg').id}")
    assert HTML_NAME in visitor.hits()
    assert page.locator(".card h3", has_text="<img src=x").count() == 1
    visitor.upload({"name": "<b onclick=alert(1)>&quot;.jpg", "mimeType": "image/jpeg", "buffer": jpeg()})
    visitor.until("document.title.startsWith('Like <b onclick')")
    assert page.locator("main b").count() == 0
    for path in ("/all", f"/results?image={index.find(HTML_NAME).id}", "/same-code", "/browse/0"):
        page = visitor.go(path)
        assert page.locator("img[src=x]").count() == 0
        assert page.title() != "owned"


def test_pictures_that_are_gone_or_outside_say_so_in_their_place(visit):
    visitor = visit()
    page = visitor.go("/all")
    visitor.until("[...document.images].every(one => one.complete)")
    sizes = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".grid .open")].map(
            (link) => [link.title, link.querySelector("img").naturalWidth]))"""
    )
    assert sizes["heron/vanishes.jpg"] == sizes["heron/leaves.jpg"] == 200  # drawn, with the reason
    assert sizes["finch/1.jpg"] not in (0, 200)


def test_a_model_without_attention_says_how_to_export_it(visit, make_index, frozen_model):
    with serving(make_index(model=frozen_model), "photos.db") as process:
        visitor = visit(url=process.client.url)
        page = visitor.go("/results?image=1")
        page.click(f".card:nth-child(2) {_BIRD}")
        page.wait_for_selector("#lens[open]")
        assert "qo-export RUN --explain" in page.inner_text("#lens")
        assert visitor.maps() == 0
        assert "--explain" in visitor.go("/browse/1").inner_text("main")


def test_without_script_links_and_forms_still_work(visit, folder):
    visitor = visit(java_script_enabled=False)
    page = visitor.go()
    visitor.upload(folder / "pictures" / "finch" / "2.jpg")
    page.click("main button[type=submit]")
    assert visitor.hits()[0] == "finch/2.jpg"
    page.fill("#k", "3")
    page.click("#controls button")
    assert len(visitor.hits()) == 3
    page.click(".card a >> nth=0")
    assert "/picture/" in page.url
    page.click("main >> text=Search")
    assert "image=" in page.url
    page.set_input_files(".file", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"text"})


def test_what_others_add_is_found_on_the_next_click(visit, make_index):
    from queryopt.runtime import Hasher

    folder = make_index()
    with serving(folder, "photos.db") as process:
        visitor = visit(url=process.client.url)
        page = visitor.go("/results?image=1")
        assert "finch/new.jpg" not in visitor.hits()
        shutil.copy(folder / "pictures" / "finch" / "1.jpg", folder / "pictures" / "finch" / "new.jpg")
        with Hasher(folder / "model.onnx") as hasher, HashIndex.open(folder / "photos.db") as index:
            index.update(hasher)
        page.select_option("#rank", "tiebreak")
        page.wait_for_url("**rank=tiebreak**")
        visitor.until("document.querySelectorAll('.card').length === 8")
        assert visitor.hits()[0] == "finch/new.jpg"
