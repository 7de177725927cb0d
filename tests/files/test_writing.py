"""Files and folders that are whole or not there."""

import pytest

from openmm_starmd.files.writing import replacing, replacing_folder, sweep


def test_a_file_is_replaced_when_its_block_ends_well(tmp_path):
    path = tmp_path / "model.bin"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".bin" and temporary.read_text() == ""
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "weights"
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with replacing_folder(path) as temporary:
        (temporary / "a").write_text("whole")
        assert not path.exists()
    assert (path / "a").read_text() == "whole"
    # a folder with files in it is never lost
    with pytest.raises(OSError, match="not empty"), replacing_folder(path) as temporary:
        (temporary / "b").touch()
    assert [entry.name for entry in path.iterdir()] == ["a"] and len(list(tmp_path.iterdir())) == 1


def test_what_killed_processes_left_is_swept_away(tmp_path):
    for name in (".partial-1-last.ckpt", "weights/.partial-2-config.json", "weights/model.bin", "last.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".partial-3-weights").mkdir()
    (tmp_path / ".partial-3-weights" / "a").touch()
    sweep(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "last.ckpt",
        "weights",
        "weights/model.bin",
    ]
