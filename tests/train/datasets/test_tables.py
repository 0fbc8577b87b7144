import pytest

from queryopt.errors import DataError
from queryopt.train.datasets.tables import keyed_rows, read_rows


@pytest.fixture
def table(tmp_path):
    def write(data):
        (tmp_path / "table.txt").write_bytes(data)
        return tmp_path / "table.txt"

    return write


@pytest.mark.parametrize(
    ("data", "spaces_in", "expected"),
    [
        (b"1 a\n2 b\n", None, [("1", "a"), ("2", "b")]),
        (b"1\ta\r\n\r\n 2  b \t\r\n", None, [("1", "a"), ("2", "b")]),
        (b"\xef\xbb\xbf1 a\n2 b", None, [("1", "a"), ("2", "b")]),
        (b"1 a b  c \n", "name", [("1", "a b  c")]),
        (b"x y z.jpg 1\n", "id", [("x y z.jpg", "1")]),
        ("1 caf\u00e9\u2028bar\n".encode(), "name", [("1", "caf\u00e9\u2028bar")]),
        (b"1 caf\xe9\n", None, [("1", "caf\udce9")]),
    ],
)
def test_rows(table, data, spaces_in, expected):
    assert [row.fields for row in read_rows(table(data), ("id", "name"), spaces_in)] == expected


def test_lines_are_those_of_an_editor(table):
    rows = read_rows(table(b"\n1 a\r\n\r\n2 b\n"), ("id", "name"))
    assert [row.line for row in rows] == [2, 4]
    assert str(rows[1].error("is wrong")) == f"{rows[1].path}, line 4: is wrong"


def test_a_key_twice(table):
    rows = read_rows(table(b"1 a\n\n1 b\n"), ("id", "name"))
    with pytest.raises(DataError, match="line 3: picture 1 is in line 1 already"):
        keyed_rows(rows, "picture")


def test_a_long_line_is_cut_in_the_message(table):
    with pytest.raises(DataError) as refused:
        read_rows(table(b"x" * 100_000), ("id", "name"))
    assert len(str(refused.value)) < 500


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match=r"table\.txt: no such file"):
        read_rows(tmp_path / "table.txt", ("id",))
    with pytest.raises(DataError, match=r": Is a directory; the data set can't be read"):
        read_rows(tmp_path, ("id",))
