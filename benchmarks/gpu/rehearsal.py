"""A bundle of three small proteins, made from files of the repository, on which every stage can be tried on a CPU."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.gpu.bundle import prepared
from benchmarks.lib.paths import DATA
from benchmarks.lib.results_page import write_json

# a held-out protein among them, of which MD is made and which must not be trained on
PROTEINS = ("1l2y_A", "2beg_A", "5a7u_A")
SOURCES = (DATA, DATA / "training")


def small_bundle(folder: Path) -> Path:
    """Make the bundle, models with hydrogens and all; its folder."""
    structures = folder / "structures"
    structures.mkdir(parents=True, exist_ok=True)
    for name in PROTEINS:
        source = next(place / name / f"{name}.pdb" for place in SOURCES if (place / name).is_dir())
        shutil.copyfile(source, structures / f"{name}.pdb")
    prepared([structures / f"{name}.pdb" for name in PROTEINS], folder / "cache", folder / "models")
    write_json(folder / "list.json", {"proteins": PROTEINS})
    return folder
