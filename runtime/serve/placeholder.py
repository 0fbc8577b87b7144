"""What is drawn in place of a picture that can't be shown."""

from textwrap import wrap

from queryopt.runtime.markup import element

__all__ = ["placeholder"]


def placeholder(reason: str) -> str:
    """An SVG that says why."""
    lines = wrap(reason, 26)[:5]
    texts = [
        element("text", line, x=100, y=100 + 18 * i - 9 * (len(lines) - 1), text_anchor="middle")
        for i, line in enumerate(lines)
    ]
    return element(
        "svg",
        element("rect", width=200, height=200, fill="#7f8790", fill_opacity="0.14"),
        element("g", *texts, fill="#7f8790", font_family="system-ui, sans-serif", font_size=13),
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 200 200",
        width=200,
        height=200,
    )
