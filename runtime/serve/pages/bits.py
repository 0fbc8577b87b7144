"""What each bit looks at: its card, and the pictures that are most sure of it."""

from queryopt.runtime.markup import Markup, element
from queryopt.runtime.serve.bit_cards import BitMeaning
from queryopt.runtime.serve.gallery import Gallery
from queryopt.runtime.serve.pages.lens import how_to_explain
from queryopt.runtime.serve.pages.shell import image_link, link, page, pager, thumbnail
from queryopt.runtime.serve.survey import MOST, BitSurvey, Surest
from queryopt.text import counted

__all__ = ["bit_page", "bits_page"]

_OF_A_CARD = 4
_OF_A_PAGE = 24


def bits_page(gallery: Gallery, found: BitSurvey | None) -> str:
    """A card for each bit."""
    return page(
        "Bits",
        element("h1", "Browse by bit"),
        _progress(found),
        element(
            "p",
            "Each card shows the pictures of the index that are most sure that the bit is 1, and those most "
            "sure that it is 0.",
            class_="lead",
        ),
        element("ul", *(_card(gallery, found, bit) for bit in range(gallery.index.bits)), class_="bits")
        if found is not None
        else None,
        here="/browse",
        uploads=gallery.can_hash,
    )


def bit_page(gallery: Gallery, found: BitSurvey | None, bit: int, number: int) -> str:
    """The pictures of one bit, page `number` (from 1) of them."""
    bits = gallery.index.bits
    before = link(f"/browse/{bit - 1}", f"← Bit {bit - 1}") if bit else None
    after = link(f"/browse/{bit + 1}", f"Bit {bit + 1} →") if bit + 1 < bits else None
    sides: list[Markup] = []
    pages = 1
    if found is not None:
        high, low = found.highest[bit], found.lowest[bit]
        pages = max(1, -(-max(len(high.ids), len(low.ids)) // _OF_A_PAGE))
        sides = [
            _side(gallery, high, number, f"Most sure that bit {bit} is 1", bit),
            _side(gallery, low, number, f"Most sure that bit {bit} is 0", bit),
        ]
    toggle = None
    if gallery.explains:
        toggle = element(
            "p",
            element("input", type="checkbox", id="show-maps"),
            element("label", f"Show where bit {bit} looks", for_="show-maps"),
            class_="toggle",
        )
    return page(
        f"Bit {bit}",
        element(
            "div",
            element("h1", f"Bit {bit}"),
            element(
                "nav",
                element("p", before, " " if before and after else None, after),
                aria_label="Other bits",
                class_="links",
            ),
            class_="row",
        ),
        _progress(found),
        _facts(found, bit, gallery.meaning(bit)),
        toggle or how_to_explain(),
        element("div", *sides, class_="sides"),
        pager(f"/browse/{bit}", number, pages, "Pages of pictures"),
        element("p", f"The {MOST} surest of each side are kept.", class_="hint")
        if pages * _OF_A_PAGE >= MOST
        else None,
        here="/browse",
        uploads=gallery.can_hash,
    )


def _progress(found: BitSurvey | None) -> Markup | None:
    if found is not None and found.complete:
        return None
    far = "" if found is None else f" ({found.images:,} of {found.total:,} so far)"
    return element(
        "p", f"Looking at all pictures of the index{far} …", class_="progress", data_again="1500", role="status"
    )


def _card(gallery: Gallery, found: BitSurvey, bit: int) -> Markup:
    def row(surest: Surest, value: int) -> Markup:
        images = gallery.images(surest.ids[:_OF_A_CARD].tolist())
        pictures = [
            element("a", thumbnail(image.id, f"Bit {bit} is {value}"), href=f"/results?image={image.id}", tabindex=-1)
            for image in images
        ]
        return element("div", element("span", str(value), class_="value"), *pictures, class_="strip-of")

    return element(
        "li",
        element("h2", link(f"/browse/{bit}", f"Bit {bit}")),
        _facts(found, bit, gallery.meaning(bit)),
        row(found.highest[bit], 1),
        row(found.lowest[bit], 0),
        class_="bit",
    )


def _facts(found: BitSurvey | None, bit: int, meaning: BitMeaning | None) -> Markup:
    facts: list[Markup] = []
    if found is not None and found.images:
        share = int(found.ones[bit]) / found.images
        meter = element("meter", f"{100 * share:.1f} %", min=0, max=1, value=f"{share:.4f}", aria_label="Share of ones")
        facts.append(element("p", meter, f"1 in {100 * share:.1f} % of pictures", class_="balance"))
    if meaning is not None and meaning.attribute is not None:
        word = meaning.attribute if meaning.positive else f"not {meaning.attribute}"
        sure = "" if meaning.accuracy is None else f" (balanced accuracy {meaning.accuracy:.3f}, p = {meaning.p:.3f})"
        facts.append(element("p", "follows ", element("strong", word), sure, class_="follows"))
    if meaning is not None and meaning.drop_loss is not None:
        facts.append(element("p", f"lost without it: {meaning.drop_loss:+.4f} of the mAP", class_="hint"))
    return element("div", *facts, class_="facts")


def _side(gallery: Gallery, surest: Surest, number: int, title: str, bit: int) -> Markup:
    some = slice((number - 1) * _OF_A_PAGE, number * _OF_A_PAGE)
    margins = dict(zip(surest.ids[some].tolist(), surest.margins[some].tolist(), strict=True))
    shown = gallery.images(list(margins))
    pictures = []
    for image in shown:
        maps = gallery.maps_of(image.id, image.relative)
        note = f"{margins[image.id]} of 127"
        pictures.append(image_link(image, note, None if maps is None else f"{maps}?bit={bit}"))
    return element(
        "section",
        element("h2", title),
        element("ul", *pictures, class_="grid small")
        if pictures
        else element("p", f"{'No more pictures' if number > 1 else 'No picture'}.", class_="none"),
        element("p", counted(len(surest.ids), "picture", "pictures"), class_="visually-hidden"),
    )
