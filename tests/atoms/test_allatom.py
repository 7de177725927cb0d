"""The all-atom model: what a force field takes, hydrogens that ride, users' own topologies."""

import functools
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from openmm import app, unit

from openmm_starmd.atoms.allatom import AllAtomModel
from openmm_starmd.atoms.building import correct_hydrogens
from openmm_starmd.atoms.turning import set_torsions
from openmm_starmd.geometry.torsions import dihedral
from openmm_starmd.protein.protein import Protein
from tests.proteins import VILLIN

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data")
# small ones: disulfides (three, one, four), an insertion-free NMR entry, MD frames of designs, prolines
SMALL = ("test_4_A", "6okd_A", "5zng_C", "cobrotoxin_A", "1l2y_A", "1t2y_A", "2beg_A", "2op7_A", "EEHEE_rd3_1587_A")


@functools.cache
def forcefield() -> app.ForceField:
    return app.ForceField("amber14-all.xml")


def quiet(topology, positions) -> Protein:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Protein.from_openmm(topology, positions)


@pytest.fixture(scope="module")
def source():
    pdb = app.PDBFile(VILLIN)
    return pdb.topology, np.array(pdb.positions.value_in_unit(unit.nanometer))


@pytest.fixture(scope="module")
def villin(source):
    topology, xyz = source
    modeller = app.Modeller(topology, xyz * unit.nanometer)
    modeller.delete([a for a in topology.atoms() if a.residue.name in ("HOH", "CL") or a.element.symbol == "H"])
    modeller.topology.setPeriodicBoxVectors(None)
    return quiet(modeller.topology, modeller.positions)


@pytest.fixture(scope="module")
def model(villin):
    return AllAtomModel.build(villin, forcefield())


def hydrogens(topology):
    """Index pairs of hydrogens and the heavy atoms they hang on."""
    pairs = []
    for first, second in topology.bonds():
        if "H" in (first.element.symbol, second.element.symbol):
            pairs.append((first, second) if first.element.symbol == "H" else (second, first))
    return pairs


def swung(protein: Protein, frames: int = 4, seed: int = 0):
    """Backbones of a chain with other ψ angles, and random side chains [frames, N, 7]."""
    rng = np.random.default_rng(seed)
    measure = protein.backmap("heavy").measure
    torsions = np.repeat(measure(protein.backmap("heavy").positions)[None], frames, 0)
    torsions[..., 1] += rng.normal(scale=0.1, size=torsions.shape[:2])
    torsions[..., 3:] += rng.uniform(-np.pi, np.pi, size=torsions[..., 3:].shape)
    heavy = set_torsions(protein, torsions)
    return heavy[:, protein.backmap("heavy").backbone], torsions


def test_model_of_villin(villin, model):
    assert model.topology.getNumAtoms() == 582 and len(model.others) == 0
    names = [(atom.residue.index, atom.name) for atom in villin.frame_topology("heavy").atoms()]
    there = list(model.topology.atoms())
    assert [(there[i].residue.index, there[i].name) for i in model.heavy] == names
    assert np.array_equal(model.positions[model.heavy], villin.backmap("heavy").positions)
    system = forcefield().createSystem(model.topology, constraints=app.HBonds)
    assert system.getNumParticles() == 582
    placed = model.place(villin.backbone, villin.torsions)
    assert np.abs(placed - model.positions).max() < 1e-9
    assert np.abs(model.carry(model.positions, villin.backbone) - model.positions).max() < 1e-9
    backbone, torsions = model.measure(model.positions)
    assert np.array_equal(backbone, villin.backbone)
    assert np.abs(np.sin((torsions - villin.torsions) / 2))[villin.torsion_mask].max() < 1e-9


def test_hydrogens_ride(villin, model):
    """On frames with every torsion changed: lengths to the parent and its neighbours stay, amides stay flat."""
    backbone, torsions = swung(villin)
    placed = model.place(backbone, torsions)
    assert placed.shape == (4, 582, 3)
    near = {atom.index: [] for atom in model.topology.atoms()}
    for first, second in model.topology.bonds():
        near[first.index].append(second.index)
        near[second.index].append(first.index)
    pairs, across = [], []
    for hydrogen, parent in hydrogens(model.topology):
        pairs.append((hydrogen.index, parent.index))
        ring = parent.residue.name == "PRO"
        across += [(hydrogen.index, atom) for atom in near[parent.index] if atom != hydrogen.index and not ring]
    for chosen, limit in ((pairs, 1e-9), (across, 1e-6)):
        first, second = np.array(chosen).T
        before = np.linalg.norm(model.positions[first] - model.positions[second], axis=-1)
        after = np.linalg.norm(placed[:, first] - placed[:, second], axis=-1)
        assert np.abs(after - before).max() < limit
    residues = [{atom.name: atom.index for atom in residue.atoms()} for residue in model.topology.residues()]
    flat = [(here["H"], here["N"], here["CA"], before["C"]) for before, here in pairwise(residues) if "H" in here]
    assert len(flat) > 30
    for frame in placed:
        assert np.abs(np.cos(dihedral(*(frame[list(atoms)] for atoms in zip(*flat, strict=True))))).min() > 0.9
    # hydrogens of a turned side chain turned along
    moved = np.linalg.norm(placed[0] - model.carry(model.positions, backbone[0]), axis=-1)
    beyond = [h.index for h, parent in hydrogens(model.topology) if parent.name in ("CE", "NZ", "CD1", "CG2")]
    assert np.median(moved[beyond]) > 0.1
    bare = [h.index for h, parent in hydrogens(model.topology) if parent.name in ("N", "CA")]
    assert moved[bare].max() < 1e-9


def test_frames_at_once(villin, model):
    backbone, torsions = swung(villin, 3, seed=1)
    together = model.place(backbone, torsions)
    assert np.abs(together - [model.place(*pair) for pair in zip(backbone, torsions, strict=True)]).max() < 1e-12
    carried = model.carry(together, backbone[::-1])
    assert np.abs(carried[0] - model.carry(together[0], backbone[2])).max() < 1e-12
    assert np.abs(model.carry(together, backbone) - together).max() < 1e-9
    assert np.abs(model.dress(together[:, model.heavy]) - together).max() < 1e-9
    found, _ = model.measure(together)
    assert np.array_equal(found, backbone)


def test_same_protein_same_model_in_any_orientation(villin, model):
    again = AllAtomModel.build(villin, forcefield())
    assert np.array_equal(again.positions, model.positions)
    turn, shift = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.array([1.0, 2.0, -3.0])
    turned = quiet(villin.topology, villin.positions @ turn.T + shift)
    positions = AllAtomModel.build(turned, forcefield()).positions
    assert np.abs(positions - (model.positions @ turn.T + shift)).max() < 1e-3


def test_python_random_numbers_are_left_alone(villin):
    import random

    random.seed(7)
    expected = random.random()
    random.seed(7)
    AllAtomModel.build(villin, forcefield())
    assert random.random() == expected


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", SMALL)
def test_force_field_takes_every_structure(name):
    pdb = app.PDBFile(str(DATA / "structures" / f"{name}.pdb"))
    protein = quiet(pdb.topology, pdb.positions)
    model = AllAtomModel.build(protein, forcefield())
    system = forcefield().createSystem(model.topology)
    assert system.getNumParticles() == len(model.positions)
    assert [r.name for r in model.topology.residues()] == [r.name for r in protein.topology.residues()]
    bridged = {a.residue.index for bond in protein.topology.bonds() if {a.name for a in bond} == {"SG"} for a in bond}
    thiols = {atom.residue.index for atom in model.topology.atoms() if atom.name == "HG" and atom.residue.name == "CYS"}
    cysteines = {i for i, residue in enumerate(protein.topology.residues()) if residue.name == "CYS"}
    assert thiols == cysteines - bridged
    assert np.abs(model.place(protein.backbone, protein.torsions) - model.positions).max() < 1e-9


def lean(topology, positions):
    """Cosine between each hydrogen's bond and the free side of its atom, which has two or three other neighbours."""
    around: dict[int, list[int]] = {}
    for first, second in topology.bonds():
        around.setdefault(first.index, []).append(second.index)
        around.setdefault(second.index, []).append(first.index)
    hydrogen = [atom.element.symbol == "H" for atom in topology.atoms()]
    cosines = {}
    for atom, others in around.items():
        arms = {k: positions[k] - positions[atom] for k in others}
        arms = {k: arm / np.linalg.norm(arm) for k, arm in arms.items()}
        heavy = sum(arm for k, arm in arms.items() if not hydrogen[k])
        if sum(not hydrogen[k] for k in others) >= 2:
            cosines |= {k: -arms[k] @ heavy / np.linalg.norm(heavy) for k in others if hydrogen[k]}
    return cosines


def test_hydrogens_are_put_on_the_free_side(model):
    """HA, amide H and a methylene turned to the wrong side come back; what lies well stays, to the bit."""
    assert np.array_equal(correct_hydrogens(model.topology, model.positions), model.positions)
    assert min(lean(model.topology, model.positions).values()) > 0.4
    spoiled = model.positions.copy()
    parents = {h.index: parent.index for h, parent in hydrogens(model.topology)}
    names = {(atom.residue.index, atom.name): atom.index for atom in model.topology.atoms()}
    moved = [names[5, "HA"], names[7, "H"], names[9, "HA"]]
    moved += [names[2, name] for name in ("HB2", "HB3") if (2, name) in names]
    assert len(moved) == 5
    for h in moved:
        spoiled[h] = 2 * spoiled[parents[h]] - spoiled[h]
    made = correct_hydrogens(model.topology, spoiled)
    # the two of a methylene are alike, and may have changed places
    apart = np.linalg.norm(made[moved][:, None] - model.positions[moved], axis=-1)
    assert apart.min(0).max() < 0.03 and apart.min(1).max() < 0.03
    others = np.setdiff1d(np.arange(len(made)), moved)
    assert np.array_equal(made[others], model.positions[others])
    bonds = [np.linalg.norm(xyz[moved] - xyz[[parents[h] for h in moved]], axis=-1) for xyz in (made, spoiled)]
    assert np.allclose(*bonds)


@needs_data
def test_no_hand_is_turned_by_its_hydrogen():
    """In this file OpenMM leaves HG of LEU 63 among CB, CD1 and CD2."""
    pdb = app.PDBFile(str(DATA / "structures" / "1aoy_A.pdb"))
    model = AllAtomModel.build(quiet(pdb.topology, pdb.positions), forcefield())
    assert min(lean(model.topology, model.positions).values()) > 0.3


def test_missing_atoms_and_breaks(villin):
    """A residue cut out, a side chain lost, no OXT: two chains with termini that the force field takes."""
    modeller = app.Modeller(villin.topology, villin.positions * unit.nanometer)
    lost = [
        atom
        for atom in villin.topology.atoms()
        if atom.residue.index == 12
        or (atom.residue.index == 6 and atom.name in ("CE", "NZ", "CD"))
        or atom.name == "OXT"
    ]
    modeller.delete(lost)
    protein = quiet(modeller.topology, modeller.positions)
    model = AllAtomModel.build(protein, forcefield())
    assert forcefield().createSystem(model.topology).getNumParticles() == len(model.positions)
    assert model.topology.getNumChains() == 2
    assert [atom.residue.index for atom in model.topology.atoms() if atom.name == "OXT"] == [11, 33]
    ends = {atom.name: model.positions[atom.index] for atom in model.topology.atoms() if atom.residue.index == 11}
    assert abs(np.linalg.norm(ends["OXT"] - ends["C"]) - 0.125) < 0.01
    assert 0.2 < np.linalg.norm(ends["OXT"] - ends["O"]) < 0.24
    assert np.abs(model.place(protein.backbone) - model.positions).max() < 1e-9


def test_unknown_residue_is_named(villin):
    topology = app.Modeller(villin.topology, villin.positions * unit.nanometer)
    topology.delete([])
    for residue in topology.topology.residues():
        if residue.index == 9:
            residue.name = "XAA"
    protein = quiet(topology.topology, topology.positions)
    with pytest.raises(ValueError, match=r"no template for chain .* residue XAA .*from_topology"):
        AllAtomModel.build(protein, forcefield())


def test_own_topology_with_solvent(source):
    topology, xyz = source
    protein = quiet(topology, xyz)
    model = AllAtomModel.from_topology(protein, topology, xyz)
    assert model.topology is topology and np.abs(model.positions - xyz).max() < 1e-12
    atoms = list(topology.atoms())
    assert {atoms[i].residue.name for i in model.others} == {"HOH", "Cl"} | ({"CL"} & {a.residue.name for a in atoms})
    backbone, torsions = swung(protein, 2)
    placed = model.place(backbone, torsions)
    assert np.array_equal(placed[1, model.others], xyz[model.others])
    pairs = [(h.index, p.index) for h, p in hydrogens(topology) if p.residue.name not in ("HOH",)]
    first, second = np.array(pairs).T
    after = np.linalg.norm(placed[:, first] - placed[:, second], axis=-1)
    assert np.abs(after - np.linalg.norm(xyz[first] - xyz[second], axis=-1)).max() < 1e-9
    assert np.abs(model.place(protein.backbone) - xyz).max() < 1e-9


def test_own_topology_must_fit(source, villin):
    topology, xyz = source
    keep = app.Modeller(topology, xyz * unit.nanometer)
    keep.delete(
        [atom for atom in topology.atoms() if atom.residue.index == 6 and atom.name in ("NZ", "HZ1", "HZ2", "HZ3")]
    )
    with pytest.raises(ValueError, match="residue LYS 7 has no atom NZ in the all-atom topology"):
        AllAtomModel.from_topology(villin, keep.topology, keep.positions)
    keep.delete([atom for atom in keep.topology.atoms() if atom.residue.index == 6])
    with pytest.raises(ValueError, match="residue LYS 7 is not there, in the all-atom topology"):
        AllAtomModel.from_topology(villin, keep.topology, keep.positions)


@needs_data
def test_caps_ride_on_their_residues():
    pdb = app.PDBFile(str(DATA / "nasty" / "maestro_aaqaa_capped.pdb"))
    protein = quiet(pdb.topology, pdb.positions)
    xyz = np.array(pdb.positions.value_in_unit(unit.nanometer))
    model = AllAtomModel.from_topology(protein, pdb.topology, xyz)
    caps = [a.index for a in pdb.topology.atoms() if a.residue.name in ("ACE", "NMA", "NME")]
    assert len(caps) > 6 and len(model.others) == 0
    assert np.abs(model.place(protein.backbone) - xyz).max() < 1e-9
    turn, shift = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.array([1.0, 2.0, -3.0])
    assert np.abs(model.place(protein.backbone @ turn.T + shift) - (xyz @ turn.T + shift)).max() < 1e-9
