"""The panel over a page of results that shows one bit: where it looks in the query and in a hit, and its card."""

from queryopt.runtime.markup import Markup, element
from queryopt.runtime.serve.gallery import Gallery

__all__ = ["how_to_explain", "lens"]


def lens(gallery: Gallery) -> Markup:
    """Empty: the script fills it."""

    def side(name: str, caption: str) -> Markup:
        return element(
            "figure",
            element("span", element("img", alt=""), class_="view", id=f"lens-{name}"),
            element("figcaption", element("strong", caption), element("span", id=f"lens-{name}-value")),
            id=f"lens-{name}-side",
        )

    return element(
        "dialog",
        element(
            "div",
            element("h2", "Bit", id="lens-title"),
            element("button", "←", type="button", id="lens-before", aria_label="The bit before"),
            element("button", "→", type="button", id="lens-next", aria_label="The next bit"),
            element("button", "Close", type="button", id="lens-close"),
            class_="row",
        ),
        element("div", side("query", "Query"), side("hit", "Hit"), class_="pair"),
        element("p", id="lens-note", class_="hint"),
        None if gallery.explains else how_to_explain(),
        element("div", id="lens-card"),
        id="lens",
        aria_labelledby="lens-title",
        data_explains="yes" if gallery.explains else "no",
    )


def how_to_explain() -> Markup:
    """What to do so that bits show where they look."""
    return element(
        "p",
        "This server's model does not say where its bits look. One that does: ",
        element("code", "qo-export --ckpt RUN --explain"),
        ", then ",
        element("code", "qo-serve … --model model.onnx"),
        ". The index stays as it is.",
        class_="hint",
    )
