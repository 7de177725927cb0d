"""Logs cut back to whole lines; trajectories are cut in tests/cli/test_cli.py."""

import pytest

from openmm_starmd.files.cutting import cut_lines, whole_lines

TORN = "step,loss\n1,0.5\n2,0.25\n3,0.1"


@pytest.mark.parametrize(
    ("text", "expected"), [("", []), ("torn", []), ("\n", ["\n"]), (TORN, ["step,loss\n", "1,0.5\n", "2,0.25\n"])]
)
def test_whole_lines_end_in_a_newline(tmp_path, text, expected):
    path = tmp_path / "log.csv"
    path.write_text(text)
    assert whole_lines(path) == expected
    assert path.read_text() == text


@pytest.mark.parametrize(("keep", "expected"), [(0, ""), (2, "step,loss\n1,0.5\n"), (3, TORN[:-5]), (9, TORN[:-5])])
def test_lines_are_cut_along_with_a_torn_one(tmp_path, keep, expected):
    path = tmp_path / "log.csv"
    path.write_text(TORN)
    cut_lines(path, keep)
    assert path.read_text() == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


def test_a_file_with_nothing_to_drop_is_left_alone(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("a\nb\n")
    before = path.stat()
    cut_lines(path, 2)
    cut_lines(path, 5)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        cut_lines(tmp_path / "log.csv", 1)
