"""Which structure is the reference: the start's, or the one that a user set last, whatever segments come in between."""

from __future__ import annotations

import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from openmm import app, unit

from openmm_starmd import StarMDSimulation
from openmm_starmd.geometry.rigid import backbone_from_rigids
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.features import torsion_features
from openmm_starmd.model.weights import Weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import Rollout, features_of
from tests.fakes import positions_of, trajectory
from tests.model.test_network import awake, narrow
from tests.proteins import VILLIN, villin_features, wobbling_frames

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STRIDE = 0.04
FORCEFIELD = app.ForceField("amber14-all.xml")
REFERENCE = {"forcefield": FORCEFIELD, "platform": "Reference", "minimize": 3, "equilibrate": 0.02}
MODES = ("ca", "backbone", "heavy")


@functools.cache
def peptide(residues: int = 8) -> tuple[app.Topology, np.ndarray]:
    """The first residues of villin, heavy atoms and hydrogens alike: topology and positions [atoms, 3], nm."""
    pdb = app.PDBFile(VILLIN)
    model = app.Modeller(pdb.topology, pdb.positions)
    model.delete([residue for residue in pdb.topology.residues() if residue.index >= residues])
    return model.topology, np.array(model.positions.value_in_unit(unit.nanometer))


def bent(positions: np.ndarray) -> np.ndarray:
    """Another structure: bent and twisted, so that ψ and χ change by tens of degrees."""
    x, y, z = (positions - positions.mean(0)).T
    return np.stack([x + 0.1 * np.sin(3 * z), y + 0.1 * np.sin(4 * x), z + 0.1 * np.sin(5 * y)], axis=1)


@functools.cache
def weights(prior: str = "elastic", lasting: bool = True) -> Weights:
    config: ModelConfig = replace(
        narrow("mini"), prior=prior, lasting_reference=lasting, blocks=1, steps=2, max_context=4, max_length=100,
        stride_min=0.01, stride_default=STRIDE, name="tiny",
    )  # fmt: skip
    return Weights(awake(config).requires_grad_(False), config, "tiny", None)


def make(atoms: str = "heavy", model=None, prior="elastic", lasting=True, seed: int | None = 3) -> StarMDSimulation:
    return StarMDSimulation(*(model or peptide()), atoms=atoms, seed=seed, weights=weights(prior, lasting))


def known(simulation: StarMDSimulation) -> np.ndarray:
    """The reference that the network is conditioned on: CA [N, 3]."""
    return simulation.integrator.propagator.rollout._conditions.reference.translations.numpy()


def singles(simulation: StarMDSimulation) -> torch.Tensor:
    """The embedding of reference and torsions."""
    return simulation.integrator.propagator.rollout._conditions.s


@pytest.mark.parametrize("prior", ["isotropic", "elastic"])
@pytest.mark.parametrize("atoms", MODES)
def test_set_positions_equal_a_new_simulation(atoms, prior):
    topology, positions = peptide()
    other = bent(positions)
    expected = trajectory(make(atoms, (topology, other), prior), 3)
    simulation = make(atoms, prior=prior)
    simulation.setPositions(other)
    # what lies beyond N, CA and C has the bond lengths of the constructor's positions
    alike = [atom.index for atom in simulation.topology.atoms() if atom.name in ("N", "CA", "C")]
    assert np.array_equal(trajectory(simulation, 3)[:, alike], expected[:, alike])
    # and back, in the middle of a run
    fresh, former = make(atoms, prior=prior), singles(simulation)
    fresh.step(1)
    simulation.setPositions(positions)
    simulation.step(1)
    assert torch.equal(singles(simulation), singles(fresh)) and not torch.equal(former, singles(fresh))


def test_heavy_frames_that_are_set_equal_a_new_simulation_of_them():
    simulation = make()
    frame = bent(positions_of(simulation))
    expected = make(model=(simulation.topology, frame))
    expected.step(3)
    simulation.context.setPositions(frame)
    simulation.step(3)
    assert torch.equal(singles(simulation), singles(expected))
    last = [one.integrator.kept([3])[3] for one in (simulation, expected)]
    assert np.array_equal(*last)


def test_backbones_that_are_set_keep_the_side_chains_known():
    """A frame of N, CA, C and O tells ψ anew, and nothing of χ."""
    simulation = make("backbone")
    frame = bent(positions_of(simulation))
    own = simulation.protein
    simulation.context.setPositions(frame)
    backbone, chi = simulation.integrator.present().reference
    assert np.array_equal(chi, np.where(own.torsion_mask, own.torsions, np.nan)[:, 3:], equal_nan=True)
    assert np.isfinite(chi).any()
    simulation.step(1)
    assert np.array_equal(simulation.integrator.reference()[0], backbone)
    told = Protein.from_openmm(simulation.topology, frame)
    mixed = np.concatenate([told.torsions[:, 1:2], own.torsions[:, 3:]], axis=1)
    mask = np.concatenate([told.torsion_mask[:, 1:2], own.torsion_mask[:, 3:]], axis=1)
    expected = features_of(own).with_reference(
        features_of(told).reference, torsion_features(torch.tensor(mixed), torch.tensor(mask))
    )
    network = weights().network
    assert torch.equal(singles(simulation), network.condition(expected.to("cpu")).s)


@pytest.mark.parametrize("lasting", [True, False])
def test_a_segment_leaves_a_lasting_reference_alone(lasting):
    """Whether the segment is the very first thing, or follows frames; else the hand-over is the reference."""
    simulation = make("backbone", prior="isotropic", lasting=lasting)
    start = simulation.protein.backbone
    for first in (0, 2):
        if first:
            simulation.setPositions(bent(peptide()[1]))
            start = simulation.integrator.present().backbone
            simulation.step(first)
        with simulation.classical(**REFERENCE):
            simulation.step(2)
        handed = simulation.integrator.kept([0])[0]
        simulation.step(1)
        assert np.abs(handed - start).max() > 1e-3
        assert np.abs(known(simulation) - (start if lasting else handed)[:, 1]).max() < 1e-6
        if lasting:
            assert np.array_equal(simulation.integrator.reference()[0], start)


def test_positions_set_before_a_segment_are_the_reference():
    simulation = make("heavy")
    simulation.step(2)
    simulation.context.setPositions(bent(positions_of(simulation)))
    backbone, chi = simulation.integrator.present().reference
    with simulation.classical(**REFERENCE):
        simulation.step(1)
    simulation.step(1)
    assert np.array_equal(simulation.integrator.reference()[0], backbone)
    assert np.array_equal(simulation.integrator.reference()[1], chi, equal_nan=True)


@pytest.mark.parametrize(
    ("atoms", "kind"),
    [
        pytest.param(atoms, kind, marks=[] if (atoms, kind) == ("heavy", "Checkpoint") else pytest.mark.slow)
        for atoms in MODES
        for kind in ("Checkpoint", "State")
    ],
)
def test_split_runs_equal_unbroken_ones(atoms, kind):
    """Between the setting of positions and the next frame, before and after a segment, and later."""
    simulation, files = make(atoms), []

    def save():
        files.append(io.StringIO() if kind == "State" else io.BytesIO())
        getattr(simulation, f"save{kind}")(files[-1])

    def following(one: StarMDSimulation, turn: int) -> list[np.ndarray]:
        frames = []
        for place in range(turn, 5):
            if one is simulation:
                save()
            if place == 2:
                with one.classical(**REFERENCE):
                    frames.append(trajectory(one, 2))
            else:
                frames.append(trajectory(one, 2))
        return frames

    simulation.step(2)
    simulation.setPositions(bent(peptide()[1]))
    unbroken = following(simulation, 0)
    for turn, file in enumerate(files):
        file.seek(0)
        fresh = make(atoms, seed=None)
        if turn % 2:
            # so that nothing is right by chance
            fresh.setPositions(peptide()[1] * 1.01)
            fresh.step(1)
        getattr(fresh, f"load{kind}")(file)
        for part, expected in zip(following(fresh, turn), unbroken[turn:], strict=True):
            assert np.array_equal(part, expected), turn


def test_a_state_of_positions_alone_is_a_new_reference():
    simulation = make()
    frame = bent(positions_of(simulation))
    other = make()
    other.context.setPositions(frame)
    simulation.step(2)
    simulation.context.setState(other.context.getState(positions=True))
    for found, expected in zip(
        simulation.integrator.present().reference, other.integrator.present().reference, strict=True
    ):
        assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.slow
def test_alternation_goes_on_with_the_reference(tmp_path):
    def run(simulation, cycles, name):
        return simulation.alternate(
            cycles=cycles, surrogate=2, classical=1, duration=0, minimize=3, accept=("pass", "strained", "broken"),
            log=tmp_path / name, settings={"forcefield": FORCEFIELD, "platform": "Reference"},
        )  # fmt: skip

    def prepared():
        simulation = make("backbone")
        simulation.setPositions(bent(peptide()[1]))
        return simulation

    unbroken = prepared()
    run(unbroken, 2, "one.jsonl")
    expected = trajectory(unbroken, 2)
    run(prepared(), 1, "two.jsonl")
    simulation = make("backbone", seed=99)
    run(simulation, 2, "two.jsonl")
    assert np.array_equal(trajectory(simulation, 2), expected)


def test_weights_without_the_flag_have_the_variables_they_had():
    """OpenMM loads a checkpoint of the same variables only."""
    simulation = make("backbone", prior="isotropic", lasting=False)
    former = simulation.integrator
    names = [former.getPerDofVariableName(i) for i in range(former.getNumPerDofVariables())]
    assert names == ["x_next", "x_last", "start_0", "drawn_0", "first_0", "ring0_0", "ring1_0", "ring2_0"]
    assert former.getNumGlobalVariables() == 15
    assert make("backbone").integrator.getNumPerDofVariables() == len(names) + 4
    assert former.present().reference is None


@pytest.mark.parametrize("prior", ["isotropic", "elastic"])
def test_replicas_with_references_of_their_own(prior):
    """Starts and torsions one a replica: each is drawn as if alone."""
    features, network = villin_features(10), awake(replace(narrow("mini"), prior=prior, blocks=1, steps=3))
    wobbled = wobbling_frames(features, 3, seed=3, size=0.1).map(lambda x: x[0].double())
    starts = backbone_from_rigids(wobbled)
    angles = 3 * torch.randn(3, 10, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torsions = torsion_features(angles, torch.ones(3, 10, 5, dtype=torch.bool))
    seeds = (3, 7, 7)

    def drawn(which: list[int], own: torch.Tensor | None) -> torch.Tensor:
        mine = [seeds[i] for i in which]
        run = Rollout(network, replace(features, torsions=torsions[0]), starts[which], stride=10.0, seeds=mine)
        run.begin(starts[which], 0, torsions=own)
        return torch.stack([run.step().backbone for _ in range(3)])

    together, alone = drawn([0, 1, 2], torsions), [drawn([i], torsions[i : i + 1]) for i in range(3)]
    for i in range(3):
        assert (together[:, i] - alone[i][:, 0]).abs().max() < 1e-4
    # replicas of one start differ by their torsions alone
    same = Rollout(network, features, starts[:1].expand(2, -1, -1, -1), stride=10.0, seeds=(7, 7))
    same.begin(starts[:1].expand(2, -1, -1, -1), 0, torsions=torsions[:2])
    frame = same.step().backbone
    assert (frame[0] - frame[1]).abs().max() > 1e-5
