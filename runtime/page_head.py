"""The head of a page that is one file: its style is inside, and a policy allows that, and pictures inside, alone."""

import base64
import hashlib

from queryopt import __version__
from queryopt.runtime.markup import Markup, element

__all__ = ["page_head"]


def page_head(title: str, style: str) -> Markup:
    """The element `head`, with a Content-Security-Policy under which the page runs no script and loads nothing."""
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        # Quotes of a policy need no escape between double quotes, and stay readable.
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="generator", content=f"queryopt {__version__}"),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
