"""The bundled weights on real input: a stranger's protein, and every nasty file there is."""

import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from openmm import app, unit
from openmm.app.internal.unitcell import reducePeriodicBoxVectors

from openmm_starmd import StarMDSimulation
from openmm_starmd.analysis.validity import judge
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, bundled_weights
from tests.proteins import VILLIN

pytestmark = pytest.mark.skipif(DEFAULT_WEIGHTS not in bundled_weights(), reason="no bundled weights")

SHARED = Path(__file__).parents[2] / "shared" / "data"
FILES = sorted((SHARED / "nasty").glob("*")) + sorted((SHARED / "multichain").glob("*")) if SHARED.exists() else []
TOPOLOGIES = {"adk_oplsaa.xtc": "adk_oplsaa.gro", "traj.twochains.xtc": "sim.prot.twochains.gro"}
REFUSED = {
    "1dpx.pdb": r"LEU 129 lacks backbone atom C",
    "altlocs.pdb": r"ILE 25.*at least three",
    "nucleic.pdb": r"no protein residue",
    "pdb1ubi_ca.pdb": r"MET 1 lacks backbone atoms N, C",
}


def read(path: Path) -> tuple[app.Topology, object]:
    """Topology and positions, as a user of OpenMM and mdtraj would read them."""
    if path.suffix in (".cif", ".pdbx"):
        file = app.PDBxFile(str(path))
        return file.topology, file.positions
    if path.suffix == ".pdb":
        file = app.PDBFile(str(path))
        return file.topology, file.positions
    frames = mdtraj.load(str(path), top=str(path.with_name(TOPOLOGIES.get(path.name, path.name))))
    topology = frames.topology.to_openmm()
    if frames.unitcell_vectors is not None:
        # rounded to the file's digits, a dodecahedron may be a hair from the form that OpenMM wants
        topology.setPeriodicBoxVectors(reducePeriodicBoxVectors(frames.openmm_boxes(0)))
    return topology, frames.openmm_positions(0)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_every_file_runs_or_is_refused_by_name(path):
    topology, positions = read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if path.name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[path.name]):
                StarMDSimulation(topology, positions)
            return
        simulation = StarMDSimulation(topology, positions, seed=0, steps=3)
        before = simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        simulation.step(1)
    after = simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    moved = np.linalg.norm(after - before, axis=-1)
    assert np.isfinite(after).all() and 0.005 < moved.mean() < 0.5


@pytest.mark.slow
def test_villin_stays_a_protein():
    """Twenty frames of the demo: it moves, it holds together, a rotated input gives the rotated trajectory."""
    pdb = app.PDBFile(VILLIN)
    positions = np.array(pdb.positions.value_in_unit(unit.nanometer))
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    trajectories = []
    for xyz in (positions, positions @ turn.T):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            # the box does not turn along
            pdb.topology.setPeriodicBoxVectors(None)
            simulation = StarMDSimulation(pdb.topology, xyz, seed=4, atoms="ca")
        frames = []
        for _ in range(20):
            simulation.step(1)
            state = simulation.context.getState(positions=True)
            frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
        trajectories.append(np.array(frames))
    first, turned = trajectories
    assert np.abs(turned[0] - first[0] @ turn.T).max() < 1e-3
    assert judge(first, np.ones(len(first[0]) - 1, dtype=bool)).fraction >= 0.9
    assert first.std(0).mean() > 0.02


@pytest.mark.slow
def test_every_atoms_mode_has_the_same_backbone():
    pdb = app.PDBFile(VILLIN)
    alphas = []
    for atoms in ("ca", "backbone", "heavy"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            simulation = StarMDSimulation(pdb.topology, pdb.positions, seed=2, atoms=atoms, steps=3)
        simulation.step(2)
        xyz = simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        alphas.append(xyz[[atom.index for atom in simulation.topology.atoms() if atom.name == "CA"]])
        assert simulation.context.getState().getTime() == 2 * simulation.stride
    assert np.array_equal(alphas[0], alphas[1]) and np.array_equal(alphas[0], alphas[2])
