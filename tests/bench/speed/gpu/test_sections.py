"""The sections' registry."""

import pytest

from queryopt.bench.speed.gpu.sections import SECTIONS, choose_sections
from queryopt.errors import UsageError


def test_names() -> None:
    assert choose_sections([section.name for section in SECTIONS]) == SECTIONS
    assert choose_sections(["search", "engine"]) == tuple(s for s in SECTIONS if s.name in ("engine", "search"))
    with pytest.raises(UsageError, match=r"no section 'serach': there are .*; did you mean search\?"):
        choose_sections(["serach"])
