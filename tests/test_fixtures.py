"""What the code of commit 1a51985 wrote is read, and gone on with, by that of today (``tests/fixtures/make.py``).

Processors round otherwise than the one the fixtures were made on, so stored histories must come back bit for bit and
what follows to 1e-4 nm. That two versions agree bit for bit on one machine is for ``benchmarks/same_bits.py`` to show.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import openmm as mm
import pytest
from openmm import app, unit
from typer.testing import CliRunner

from openmm_starmd import StarMDSimulation
from openmm_starmd.cli import app as command
from openmm_starmd.data.folders import open_data
from openmm_starmd.model.weights import load_weights

from .proteins import VILLIN

FIXTURES = Path(__file__).parent / "fixtures"
CLOSE = 1e-4  # nm
CLASSICAL = {"platform": "Reference", "minimize": 20, "equilibrate": 0.02}


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / name) as file:
        return dict(file)


def make_simulation(atoms: str = "backbone", weights="starmd-mini-v2", **options) -> StarMDSimulation:
    pdb = app.PDBFile(VILLIN)
    return StarMDSimulation(pdb.topology, pdb.positions, atoms=atoms, weights=weights, device="cpu", **options)


def positions_of(simulation: StarMDSimulation) -> np.ndarray:
    return simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def draw(simulation: StarMDSimulation, frames: int) -> np.ndarray:
    drawn = []
    for _ in range(frames):
        simulation.step(1)
        drawn.append(positions_of(simulation))
    return np.array(drawn)


def assert_loaded(simulation: StarMDSimulation, expected: dict[str, np.ndarray]) -> None:
    """Counters, clock, positions and every kept frame are those saved, bit for bit."""
    integrator = simulation.integrator
    history = integrator.history()
    assert [history.count, history.offset, history.token, history.seed] == expected["history"].tolist()
    assert simulation.currentStep == expected["step"]
    assert simulation.context.getTime().value_in_unit(unit.picosecond) == expected["time"]
    assert np.array_equal(positions_of(simulation), expected["positions"])
    kept = integrator.kept(expected["numbers"].tolist())
    for number, backbone in zip(expected["numbers"], expected["kept"], strict=True):
        assert np.array_equal(kept[number], backbone), number


def assert_close(frames: np.ndarray, expected: np.ndarray) -> None:
    assert frames.shape == expected.shape
    assert np.abs(frames - expected).max() < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Checkpoint", "State"])
def test_saved_simulation_goes_on(kind):
    expected = arrays("simulation/expected.npz")
    assert expected["numbers"].tolist() == [0, 4, 5, 6, 7, 8, 9], "frames have left the history"
    simulation = make_simulation(seed=99)
    getattr(simulation, f"load{kind}")(FIXTURES / "simulation" / ("run.chk" if kind == "Checkpoint" else "run.xml"))
    assert_loaded(simulation, expected)
    assert_close(draw(simulation, 3), expected["following"])


@pytest.mark.parametrize("kind", ["Checkpoint", "State"])
def test_what_other_weights_saved_is_refused_with_the_remedy(kind, tmp_path):
    """A script that names no weights and loads what it saved when the default was another; and the other way round."""
    saved = FIXTURES / "simulation" / ("run.chk" if kind == "Checkpoint" else "run.xml")
    simulation = make_simulation(weights=None, seed=99)
    simulation.step(1)
    before = positions_of(simulation)
    with pytest.raises(ValueError, match="other weights.*weights='starmd-mini-v2'"):
        getattr(simulation, f"load{kind}")(saved)
    assert simulation.currentStep == 1 and np.array_equal(positions_of(simulation), before)
    getattr(simulation, f"save{kind}")(tmp_path / "saved")
    # a State of weights with an elastic prior has variables that the others do not know
    with pytest.raises(ValueError, match="Build .* from the same input file, weights and settings"):
        getattr(make_simulation(seed=99), f"load{kind}")(tmp_path / "saved")


@pytest.mark.slow
def test_checkpoint_inside_a_classical_segment_goes_on():
    """In the middle of a stride; under another OpenMM, whose checkpoints are its own, it is refused by name."""
    expected = arrays("segment/expected.npz")
    simulation = make_simulation(seed=99, stride=1)
    simulation.loadCheckpoint(FIXTURES / "segment" / "run.chk")
    assert_loaded(simulation, expected)
    if mm.Platform.getOpenMMVersion() != json.loads((FIXTURES / "versions.json").read_text())["openmm"]:
        with pytest.raises(ValueError, match="OpenMM version"), simulation.classical(**CLASSICAL):
            pass
        return
    with simulation.classical(**CLASSICAL) as md:
        inner = md.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        assert np.array_equal(inner, expected["inner"]) and md.currentStep == 250 * 3 + 240
        md.step(10)
        frames = [positions_of(simulation)]
    assert_close(np.array([*frames, *draw(simulation, 2)]), expected["following"])


@pytest.mark.parametrize("atoms", ["ca", "backbone", "heavy"])
def test_villin_begins_as_it_did(atoms):
    expected = arrays(f"frames/{atoms}.npz")["frames"]
    assert expected.shape == (50, {"ca": 35, "backbone": 140, "heavy": 289}[atoms], 3)
    assert_close(draw(make_simulation(atoms, seed=1, stride=10), 3), expected[:3])


@pytest.mark.slow
def test_stopped_run_goes_on(tmp_path):
    expected = arrays("run.npz")["frames"]
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "run", run)
    outcome = CliRunner().invoke(
        command, ["run", VILLIN, "-o", str(run), "--frames", "10", "--resume", "--device", "cpu"]
    )
    assert outcome.exit_code == 0, outcome.output
    frames = mdtraj.load(str(run / "trajectory.dcd"), top=str(run / "topology.pdb")).xyz
    assert np.array_equal(frames[:7], expected[:7])
    assert_close(frames, expected)
    then, now = ((folder / "log.csv").read_text().splitlines() for folder in (FIXTURES / "run", run))
    assert now[:8] == then and len(now) == 11
    assert json.loads((run / "summary.json").read_text())["frames"] == 10


def test_store_reads_as_it_did():
    """To the bit, but for rotations, which are worked out from the stored quaternions."""
    expected = arrays("store.npz")
    proteins = open_data([FIXTURES / "store"])
    assert [protein.name for protein in proteins] == ["1vii_A", "5a7u_A"]
    for protein in proteins:
        name = protein.name
        assert protein.sequence == expected[f"{name}/sequence"]
        assert np.array_equal(protein.features.residue_types.numpy(), expected[f"{name}/types"])
        assert np.array_equal(protein.torsion_mask, expected[f"{name}/torsion_mask"])
        assert [len(replica) for replica in protein.replicas] == [40, 20]
        for number, replica in enumerate(protein.replicas, 1):
            index = np.arange(len(replica))
            rigids = replica.rigids(index)
            assert replica.interval == expected[f"{name}/{number}/interval"]
            assert np.array_equal(rigids.translations.numpy(), expected[f"{name}/{number}/translations"])
            assert np.allclose(rigids.rotations.numpy(), expected[f"{name}/{number}/rotations"], rtol=0, atol=1e-6)
            assert np.array_equal(replica.torsions_at(index), expected[f"{name}/{number}/torsions"])


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_weights_load_and_draw(form):
    weights = load_weights(FIXTURES / "weights" / form)
    assert weights.name == f"tiny-{form}" and weights.config.anchored == (form == "mini")
    frames = draw(make_simulation(weights=weights, seed=1), 3)
    assert np.abs(np.diff(frames, axis=0)).max() > 0.01, "the network does nothing"
    assert_close(frames, arrays("weights.npz")[form][:3])


def test_stopped_training_goes_on(tmp_path):
    """From step 6 of 12, before which it was killed in the eighth, to the end that the old code came to."""
    pytest.importorskip("lightning", reason="training needs the extra `train`")
    expected = arrays("training.npz")
    log = expected.pop("log")
    run = tmp_path / "training"
    shutil.copytree(FIXTURES / "training", run)
    words = ["train", "--data", FIXTURES / "store", "--config", run / "recipe.json", "--accelerator", "cpu"]
    outcome = CliRunner().invoke(command, [*map(str, words), "-o", str(run), "--resume"])
    assert outcome.exit_code == 0, outcome.output
    then, now = ((folder / "log.csv").read_text().splitlines() for folder in (FIXTURES / "training", run))
    assert now[:7] == then[:7] and len(then) == 8 and len(now) == 13
    rows = np.array([[float(value) for value in row.split(",")] for row in now[1:]])
    assert np.array_equal(rows[:6], log[:6])
    assert np.allclose(rows[6:], log[6:], rtol=1e-3, atol=1e-5)
    before, after = (flattened(folder / "weights", expected) for folder in (FIXTURES / "training", run))
    end = np.concatenate([expected[name].ravel() for name in sorted(expected)])
    # Adam turns the sign of a gradient that is next to nothing into a step, so single numbers may differ by more
    assert np.linalg.norm(after - end) < 0.05 * np.linalg.norm(end - before)


def flattened(folder: Path, names: dict[str, np.ndarray]) -> np.ndarray:
    """All numbers of the weights in a folder, which must have these names."""
    state = load_weights(folder).network.state_dict()
    assert set(state) == set(names)
    return np.concatenate([state[name].numpy().ravel() for name in sorted(names)])
