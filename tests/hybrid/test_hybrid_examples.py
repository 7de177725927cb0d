"""The hybrid examples, run as a user runs them, and their trajectories read back."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from openmm import app, unit

from openmm_starmd.atoms.allatom import AllAtomModel
from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS
from openmm_starmd.protein.protein import Protein
from tests.proteins import VILLIN

pytestmark = pytest.mark.skipif(not (BUNDLED / DEFAULT_WEIGHTS / "config.json").exists(), reason="no bundled weights")
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, folder: Path, *arguments: str, **settings: str) -> str:
    environment = os.environ | {"OPENMM_CPU_THREADS": "1"} | settings
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def complete_fragment(path: Path, residues: int) -> None:
    """The first residues of villin, terminus and hydrogens included, as a PDB file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pdb = app.PDBFile(VILLIN)
        modeller = app.Modeller(pdb.topology, pdb.positions)
        modeller.delete(list(modeller.topology.residues())[residues:])
        modeller.topology.setPeriodicBoxVectors(None)
        protein = Protein.from_openmm(modeller.topology, modeller.positions)
    model = AllAtomModel.build(protein, app.ForceField("amber14-all.xml"))
    with open(path, "w") as file:
        app.PDBFile.writeFile(model.topology, model.positions * unit.nanometer, file)


@pytest.mark.slow
def test_hybrid(tmp_path):
    complete_fragment(tmp_path / "fragment.pdb", 12)
    printed = run("hybrid.py", tmp_path, "fragment.pdb", FRAMES="2", STRIDES="2")
    trajectory = mdtraj.load(str(tmp_path / "trajectory.dcd"), top=str(tmp_path / "topology.pdb"))
    assert trajectory.n_frames == 6 and trajectory.n_residues == 12
    # superposed on one another: nothing tumbles, and neighbours differ by motion alone
    assert (np.linalg.norm(np.diff(trajectory.xyz, axis=0), axis=-1).mean(-1) < 0.25).all()
    times = [float(line.split(",")[1]) for line in printed.splitlines() if line[:1].isdigit()]
    assert np.allclose(times, np.arange(1, 7))
    inner = mdtraj.load(str(tmp_path / "all_atoms.dcd"), top=str(tmp_path / "all_atoms.pdb"))
    assert inner.n_frames == 10 and "H" in {atom.element.symbol for atom in inner.topology.atoms}
    assert (tmp_path / "verdict.json").exists() and "verdict" in printed


@pytest.mark.slow
def test_from_simulation(tmp_path):
    complete_fragment(tmp_path / "fragment.pdb", 8)
    run("from_simulation.py", tmp_path, "fragment.pdb", FRAMES="1", STRIDES="1")
    trajectory = mdtraj.load(str(tmp_path / "trajectory.dcd"), top=str(tmp_path / "topology.pdb"))
    assert trajectory.n_frames == 3 and trajectory.n_residues == 8
