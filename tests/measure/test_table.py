"""Rows added to a CSV file: nothing is lost, whatever the file holds."""

import csv

import pytest

from muybridge.errors import BadInput
from muybridge.measure.table import append_row, check_columns


def test_a_new_file_gets_a_header_and_a_second_row_none(tmp_path):
    path = tmp_path / "new" / "times.csv"
    append_row(path, {"way": "plain, twice", "ms": 3})
    append_row(path, {"way": "", "ms": None})
    assert path.read_text() == 'way,ms\n"plain, twice",3\n,\n'


def test_the_file_keeps_its_order_and_its_line_ends(tmp_path):
    path = tmp_path / "times.csv"
    path.write_bytes(b"ms,way\r\n3,a")  # a person took the last line break away
    append_row(path, {"way": "b", "ms": 4})
    assert path.read_bytes() == b"ms,way\r\n3,a\r\n4,b\r\n"


def test_an_empty_file_is_a_new_one(tmp_path):
    path = tmp_path / "times.csv"
    path.touch()
    append_row(path, {"ms": 4})
    assert list(csv.DictReader(path.open())) == [{"ms": "4"}]


def test_a_spreadsheet_s_mark_and_odd_bytes_do_not_matter(tmp_path):
    path = tmp_path / "times.csv"
    path.write_bytes("\ufeffms,way\n".encode())
    append_row(path, {"ms": 1, "way": "run\udcff"})  # a folder's name that is no UTF-8
    assert list(csv.DictReader(path.open(encoding="utf-8-sig"))) == [{"ms": "1", "way": "run\\udcff"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"way": "a"}, "it has besides ms."),
        ({"way": "a", "ms": 1, "rounds": 7, "device": "cpu"}, "it lacks rounds, device."),
        ({"way": "a", "seconds": 1}, "it lacks seconds; it has besides ms."),
    ],
)
def test_other_columns_are_refused_and_named(tmp_path, row, said):
    path = tmp_path / "times.csv"
    path.write_text("way,ms\na,1\n")
    with pytest.raises(BadInput, match=said):
        append_row(path, row)
    assert path.read_text() == "way,ms\na,1\n"


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is a folder"):
        append_row(tmp_path, {"ms": 1})
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(BadInput, match="cannot be read as a CSV file"):
        append_row(tmp_path / "photo.png", {"ms": 1})
    with pytest.raises(BadInput, match="cannot be written"):
        append_row(tmp_path / "photo.png" / "times.csv", {"ms": 1})


def test_asked_beforehand(tmp_path):
    path = tmp_path / "times.csv"
    assert check_columns(path, ["way"]) == []
    assert not path.exists()
    path.write_text("ms,way\n")
    assert check_columns(path, {"way": 1, "ms": 2}) == ["ms", "way"]
