"""Templates: what they show of names, what they refuse, and where they are found."""

import os
import re
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import queryopt
from queryopt.runtime.pages import Markup, breakable, render, templates

EVIL = "<img src=x onerror=alert(1)>\"'&\n\u202e" + os.fsdecode(b"\xff")
SHOWN = "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;\\n\\u202e\\udcff"


def made(source: str, **values: object) -> str:
    return templates().from_string(source).render(values)


@pytest.mark.parametrize(
    "source",
    [
        "{{ text }}",
        "{% set kept = text %}{{ kept }}",
        "{% macro shown(a) %}{{ a }}{% endmacro %}{{ shown(text) }}",
        "{% set kept %}{{ text }}{% endset %}{{ kept }}",
        "{{ text | breakable | replace('<wbr>', '') }}",
        "{{ text | default('none') }}",
    ],
)
def test_text_is_escaped_and_visible(source: str) -> None:
    assert made(source, text=EVIL).replace("<wbr>", "") == SHOWN
    made(source, text=EVIL).encode("utf-8")


def test_markup_and_numbers_stay() -> None:
    assert made("{{ a }} {{ b }} {{ c | thousands }}", a=Markup("<b>\n</b>"), b=7, c=1234567) == "<b>\n</b> 7 1,234,567"
    assert made("{{ 1 | counted('bit', 'bits') }}, {{ 2000 | counted('bit', 'bits') }}") == "1 bit, 2,000 bits"


def test_names_break_after_their_separators() -> None:
    assert breakable("a/b_c--d.jpg") == "a/<wbr>b_<wbr>c--<wbr>d.<wbr>jpg"
    assert breakable("<a>/") == "&lt;a&gt;/"


def test_no_template_leaves_a_way_around() -> None:
    found = list(Path(queryopt.__file__).parent.rglob("*.jinja"))
    assert len({path.parent for path in found}) > 1
    for path in found:
        source = path.read_text("utf-8")
        assert not re.findall(r"\|\s*safe\b|\bautoescape\b|\bxmlattr\b|\s[\w-]+=(?:\{\{|')", source), path


def test_a_value_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="labell"):
        made("{{ labell }}", label="finch")


def test_a_document_holds_its_style_and_escapes_its_title() -> None:
    page = render("document.html.jinja", title=EVIL, style=Markup("p > b { color: red }"))
    assert f"<title>{SHOWN}</title>" in page
    assert "<style>p > b { color: red }</style>" in page
    assert page.startswith("<!doctype html>\n<html lang")


def test_a_room_adds_its_own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "room_of_a_test"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "templates" / "own.html.jinja").write_text(
        '{% extends "document.html.jinja" %}{% import "text.html.jinja" as words %}'
        "{% block body %}{{ words.hidden(name) }}{% endblock %}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    page = render("own.html.jinja", "room_of_a_test", title="t", style=Markup(""), name=EVIL)
    assert f'<span class="visually-hidden">{SHOWN}</span>' in page
    templates.cache_clear()
    sys.modules.pop("room_of_a_test")
