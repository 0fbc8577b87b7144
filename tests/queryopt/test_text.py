import re
import tomllib
from pathlib import Path

import pytest

from queryopt.text import counted, did_you_mean, install_extra, listed

ROOT = Path(__file__).parents[2]


def test_the_word_goes_with_the_number() -> None:
    said = [counted(number, "query", "queries") for number in (0, 1, 2, 1234)]
    assert said == ["0 queries", "1 query", "2 queries", "1,234 queries"]


@pytest.mark.parametrize(("name", "said"), [("smal", "; did you mean small?"), ("qqq", ""), (None, ""), ("", "")])
def test_a_near_name_is_suggested(name: object, said: str) -> None:
    assert did_you_mean(name, {"small": 1, "default": 2}) == said


def test_a_long_list_is_cut() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2, "; ") == "a; b and 2 more"
    assert listed([]) == ""


def test_an_extra_is_installed_from_the_checkout() -> None:
    assert install_extra("gpu") == "install queryopt's extra [gpu]: in its checkout, pip install '.[gpu]'"


def test_every_extra_that_a_message_names_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [p for room in ("queryopt", "train", "export", "runtime", "bench") for p in (ROOT / room).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    named = set(re.findall(r"install_extra\('(\w+)'\)", text))
    assert {"bench", "cuda", "gpu", "openvino", "parquet", "train"} <= named <= set(extras)
    # There is no package of this name to install.
    assert "pip install 'queryopt" not in text
