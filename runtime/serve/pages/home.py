"""The first page: a field for a picture, and pictures of the index."""

from collections.abc import Sequence

from queryopt.runtime.index import IndexedImage
from queryopt.runtime.markup import Markup, element
from queryopt.runtime.serve.gallery import Gallery
from queryopt.runtime.serve.pages.shell import image_link, link, page, upload_form
from queryopt.text import counted

__all__ = ["all_page", "home_page"]


def home_page(gallery: Gallery, images: Sequence[IndexedImage]) -> str:
    """With some pictures of the index."""
    card = gallery.index.card
    facts = f"{counted(len(gallery.index), 'picture', 'pictures')}, codes of {counted(card.bits, 'bit', 'bits')}"
    return page(
        "Search",
        element(
            "div",
            element("h1", "Which pictures are like this one?"),
            element("p", facts, class_="lead"),
            class_="intro",
        ),
        upload_form() if gallery.can_hash else _no_model(),
        element(
            "section",
            element(
                "div",
                element("h2", "Or click a picture of the index", id="some"),
                element("p", link("/", "Others"), " ", link("/all", "All, in order"), class_="links"),
                class_="row",
            ),
            _grid(images),
            aria_labelledby="some",
        )
        if images
        else element("p", "The index is empty: qo-infer FOLDER adds pictures, and they show up here.", class_="none"),
        here="/",
        uploads=False,
    )


def all_page(gallery: Gallery, images: Sequence[IndexedImage], after: int, count: int) -> str:
    """The pictures of the index in id order, from one on."""
    more = link("/all", "Next →", after=images[-1].id) if len(images) == count else None
    first = link("/all", "From the start") if after else None
    title = f"{counted(len(gallery.index), 'picture', 'pictures')}, in the order of the index"
    return page(
        "All pictures",
        element("h1", title),
        _grid(images) if images else element("p", "No more pictures.", class_="none"),
        element(
            "nav",
            element("p", first, " " if first and more else None, more),
            class_="pager",
            aria_label="More pictures",
        ),
        here="/",
        uploads=gallery.can_hash,
    )


def _grid(images: Sequence[IndexedImage]) -> Markup:
    return element("ul", *(image_link(image) for image in images), class_="grid")


def _no_model() -> Markup:
    return element(
        "p",
        "This server has no model, so it can't hash new pictures: start it with ",
        element("code", "qo-serve … --model model.onnx"),
        ". Pictures of the index can be searched for.",
        class_="hint",
    )
