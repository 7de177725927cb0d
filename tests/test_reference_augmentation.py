"""The benchmark of reference augmentation from end to end, with trainings of two steps."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import reference_augmentation
from benchmarks.lib.paths import DATA

LEFT_OUT, SEEN = "HHH_rd4_0557_A", "HHH_rd2_0181_A"


def copied(name: str, folder: Path, new: str | None = None) -> None:
    """MD of a training protein in `folder`, under another name where one is given."""
    new = new or name
    (folder / new).mkdir(parents=True)
    for path in (DATA / "training" / name).iterdir():
        shutil.copy(path, folder / new / path.name.replace(name, new))


@pytest.mark.slow
def test_benchmark_of_reference_augmentation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lightning", reason="training needs the extra `train`")
    for name in (SEEN, "2myx_A", "1t2y_A"):  # the last may not be trained on: its kin is hen lysozyme
        copied(name, tmp_path / "pool")
    # another protein's MD stands for that of a left-out one, in the pool's folder too
    for folder in ("pool", "left"):
        copied("1gjs_A", tmp_path / folder, LEFT_OUT)
    words = f"--data {tmp_path}/pool --left-out-data {tmp_path}/left --store {tmp_path}/store --json {tmp_path}/a.json"
    words += f" --steps 2 --tokens 100 --windows 1 --frames 3 --seeds 3 --markdown {tmp_path}/page.md"
    monkeypatch.setattr(sys, "argv", ["reference_augmentation", *words.split()])
    reference_augmentation.main()
    content = json.loads((tmp_path / "a.json").read_text())
    assert [(run["begin"], run["arm"]) for run in content["runs"]] == [
        *(("starmd-mini-v2", arm) for arm in ("plain", "augmented")),
        *(("scratch", arm) for arm in ("plain", "augmented")),
    ]
    protein = content["proteins"][0]
    assert content["trained_on"] == 2 and content["overlap"] == 2
    assert (protein["name"], protein["role"], protein["seen"]) == (LEFT_OUT, "choose", False)
    assert protein["strides"] == [2.0, 10.0, 20.0, 50.0] and protein["picoseconds"] == 100
    store = sorted(path for path in (tmp_path / "store").iterdir())
    assert len(store) == 4
    for folder in store:
        listed = json.loads((folder / "weights" / "training_data.json").read_text())
        assert {item["name"] for item in listed["proteins"]} == {SEEN, "2myx_A"}
        deformed = listed["recipe"]["windows"]["deformation_probability"]
        assert deformed == (0.6 if "augmented" in folder.name else 0.0)
    # what a network says of a frame of little noise is nearer to it than the last frame is
    rows = content["runs"][0]["rows"]
    low = reference_augmentation.pick(rows, "mean", 10.0, 0.001)
    assert 0.05 < low < 0.2 < reference_augmentation.pick(rows, "mean", 10.0, 0.001, "last_frame") < 5
    page = (tmp_path / "page.md").read_text()
    assert "results:reference-augmentation" in page and f"{LEFT_OUT} (45 residues, 100 ps, choose)" in page
    assert "| starmd-mini-v2 + 2 steps, augmented |" in page

    # a second call trains nothing anew, and finds the same
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("model.safetensors")}
    reference_augmentation.main()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("model.safetensors")} == before
    assert json.loads((tmp_path / "a.json").read_text()) == content
