import pytest

from queryopt.text import counted, did_you_mean, listed


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
