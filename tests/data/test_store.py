"""The store: as exact as it says, read frame by frame, and never by opening it."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from openmm_starmd.data.description import coarse_frames, describe
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.prepare import Settings, prepare
from openmm_starmd.data.store import StoredReplica, open_store
from openmm_starmd.data.trajectories import load_protein
from openmm_starmd.data.windows import WindowDataset, WindowSettings, window_frames
from openmm_starmd.geometry.rigid import rigids_from_backbone
from openmm_starmd.geometry.so3 import angle_of
from openmm_starmd.protein.protein import Protein
from tests.trajectories import fragment, wobble, write_chain

GENUINE = Path(__file__).parents[3] / "shared" / "data" / "trajectories"
NASTY = Path(__file__).parents[3] / "shared" / "data" / "nasty"


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return write_chain(tmp_path_factory.mktemp("atlas"))


@pytest.fixture(scope="module")
def store(chain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "store"
    assert prepare([chain], folder, progress=False).rejected == []
    return folder


def assert_same(stored, loaded):
    """A stored replica is the loaded one, to the precision that the store says."""
    index = np.arange(len(loaded))
    assert len(stored) == len(loaded)
    assert stored.interval == pytest.approx(loaded.interval)
    ours, theirs = stored.rigids(index), loaded.rigids(index)
    assert ours.translations.dtype == ours.rotations.dtype == torch.float32
    assert torch.equal(ours.translations, theirs.translations)
    between = ours.rotations.double().transpose(-1, -2) @ theirs.rotations.double()
    assert angle_of(between).max() < 9e-4
    identity = ours.rotations @ ours.rotations.transpose(-1, -2)
    assert (identity - torch.eye(3)).abs().max() < 1e-6
    turn = stored.torsions_at(index) - loaded.torsions_at(index)
    assert stored.torsions_at(index).dtype == np.float32
    assert np.abs(np.angle(np.exp(1j * turn))).max() < 1e-3


def test_store_holds_what_the_trajectories_do(store, chain):
    (stored,), loaded = open_data([store]), load_protein(chain)
    assert stored.name == loaded.name == "1abc_A"
    assert stored.sequence == loaded.sequence and len(stored.sequence) == 12
    for name in ("residue_types", "residue_index", "chain_index", "bonded"):
        ours, theirs = getattr(stored.features, name), getattr(loaded.features, name)
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    assert torch.equal(stored.features.reference.rotations, loaded.features.reference.rotations)
    assert torch.equal(stored.features.reference.translations, loaded.features.reference.translations)
    assert np.array_equal(stored.torsion_mask, loaded.torsion_mask) and stored.torsion_mask.any(0)[:4].all()
    assert np.array_equal(stored.torsion_symmetric, loaded.torsion_symmetric)
    for ours, theirs in zip(stored.replicas, loaded.replicas, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("index", [np.array(3), np.array([5, 0, 5]), np.arange(6).reshape(2, 3)])
def test_index_of_any_shape(store, chain, index):
    stored, loaded = open_store(store)[0].replicas[0], load_protein(chain).replicas[0]
    assert stored.rigids(index).translations.shape == (*index.shape, 12, 3)
    assert torch.equal(stored.rigids(index).translations, loaded.rigids(index).translations)
    assert stored.torsions_at(index).shape == (*index.shape, 12, 5)
    assert np.abs(stored.torsions_at(index) - loaded.torsions_at(index)).max() < 1e-3


def test_windows_read_exactly_their_frames(store):
    """Reading frames 0, k, 2k, ... touches those rows of the map and no other."""
    replica = open_store(store)[0].replicas[0]
    for name in ("translations", "rotations", "torsions"):
        array = replica.array(name)
        assert isinstance(array, np.memmap) and not array.flags.writeable and len(array) == 30
    touched = []

    class Rows:
        def __init__(self, array):
            self.array = array

        def __getitem__(self, index):
            touched.append(np.array(index))
            return self.array[index]

    replica._open = {name: Rows(replica.array(name)) for name in ("translations", "rotations", "torsions")}
    for stride in (1, 3, 7):
        window = window_frames(len(replica), 4, stride, np.random.default_rng(stride))
        replica.rigids(window)
        replica.torsions_at(window)
        assert len(touched) == 3 and all(np.array_equal(rows, window[0] + stride * np.arange(4)) for rows in touched)
        touched.clear()
        expected = wobble(fragment(), 30, seed=1).xyz[window][:, fragment().topology.select("name CA")]
        # XTC rounds to 1e-3 nm
        assert np.abs(replica.rigids(window).translations.numpy() - expected).max() < 6e-4
        touched.clear()


def test_batches_are_those_of_the_trajectories_in_memory(store, chain):
    """The same steps draw the same windows from a store and from memory, equal to the store's precision."""
    settings = WindowSettings(stride_min=10.0, stride_max=80.0, stride_focus=20.0)
    stored, loaded = (WindowDataset(open_data([folder]), settings, 6) for folder in (store, chain.parent))
    for step in range(6):
        ours, theirs = stored[step], loaded[step]
        assert torch.equal(ours.stride, theirs.stride) and torch.equal(ours.target, theirs.target)
        assert (ours.rigids.translations - theirs.rigids.translations).abs().max() < 1e-5
        assert (ours.rigids.rotations - theirs.rigids.rotations).abs().max() < 1e-3
        assert (ours.torsions - theirs.torsions).abs().max() < 1e-3


def test_frames_beyond_the_end_are_refused(store):
    replica = open_store(store)[0].replicas[0]
    with pytest.raises(IndexError):
        replica.rigids(np.array([29, 30]))


def test_opening_reads_no_trajectory(store, tmp_path):
    """A store whose arrays are garbage opens; reading says what is wrong and what to do."""
    copy = tmp_path / "store"
    os.system(f"cp -r {store} {copy}")
    for path in copy.glob("*/R*/*.npy"):
        path.write_bytes(b"nonsense")
    (protein,) = open_data([copy])
    assert [len(replica) for replica in protein.replicas] == [30, 15]
    with pytest.raises(ValueError, match=r"translations.npy cannot be read.*delete .*R1 and prepare it again"):
        protein.replicas[0].rigids(np.arange(2))


def test_cut_off_arrays_are_refused(store, tmp_path):
    copy = tmp_path / "store"
    os.system(f"cp -r {store} {copy}")
    path = copy / "1abc_A" / "R1" / "translations.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="prepare it again"):
        open_store(copy)[0].replicas[0].rigids(np.arange(2))
    meta = copy / "1abc_A" / "R2" / "replica.json"
    meta.write_text(meta.read_text().replace('"frames":15', '"frames":14'))
    with pytest.raises(ValueError, match=r"shape \(15, 12, 3\), not \(14, 12, 3\)"):
        open_store(copy)[0].replicas[1].rigids(np.arange(2))
    (copy / "1abc_A" / "protein.json").write_text("{")
    with pytest.raises(ValueError, match=r"protein.json cannot be read"):
        open_store(copy)


def test_later_formats_are_refused(store, tmp_path):
    os.system(f"cp -r {store}/. {tmp_path}")
    (tmp_path / "store.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99"):
        open_data([tmp_path])


def test_pickled_replicas_carry_no_frames(store):
    """Workers of a DataLoader get the path; a pickled memory map would be the whole array."""
    replica = open_store(store)[0].replicas[0]
    before = len(pickle.dumps(replica))
    frames = replica.rigids(np.arange(30))
    data = pickle.dumps(replica)
    assert len(data) == before < 2000
    again = pickle.loads(data)
    assert isinstance(again, StoredReplica) and torch.equal(again.rigids(np.arange(30)).rotations, frames.rotations)


def test_exclusions_and_several_folders(store, chain):
    assert [len(protein.replicas) for protein in open_data([store], ["1abc_A:2"])] == [1]
    (protein,) = open_data([store, chain.parent])
    assert [len(replica) for replica in protein.replicas] == [30, 15, 30, 15]
    with pytest.raises(ValueError, match="no trajectories"):
        open_data([store], ["1abc_A"])
    with pytest.raises(ValueError, match="there is no folder"):
        open_data([store / "nowhere"])


def test_one_name_for_two_proteins_is_refused(store, tmp_path):
    other = fragment(9)
    (tmp_path / "1abc_A").mkdir()
    other.save_pdb(str(tmp_path / "1abc_A" / "1abc_A.pdb"))
    wobble(other, 4).save_xtc(str(tmp_path / "1abc_A" / "1abc_A_prod_R1_fit.xtc"))
    with pytest.raises(ValueError, match="1abc_A is another protein"):
        open_data([store, tmp_path])


def random_rotations(count: int, seed: int = 0) -> torch.Tensor:
    from openmm_starmd.geometry.so3 import rotation_from_gaussian

    noise = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rotation_from_gaussian(noise)


def test_half_precision_costs_what_the_docstring_says():
    """Worst case over 200,000 random rotations and angles."""
    from openmm_starmd.geometry.so3 import matrix_to_quaternion, quaternion_to_matrix

    rotations = random_rotations(200_000)
    stored = torch.from_numpy(matrix_to_quaternion(rotations).numpy().astype(np.float16).astype(np.float32))
    between = quaternion_to_matrix(stored).double().transpose(-1, -2) @ rotations
    worst = float(angle_of(between).max())
    assert 6e-4 < worst < 9e-4
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, 200_000).astype(np.float32)
    assert 9e-4 < np.abs(angles.astype(np.float16).astype(np.float32) - angles).max() < 1e-3


@pytest.mark.skipif(not GENUINE.is_dir(), reason="no shared data")
@pytest.mark.parametrize("name", ["6okd_C", "7jfl_C"])
def test_genuine_atlas_files_convert(tmp_path, name):
    outcome = prepare([GENUINE / name], tmp_path / "store", progress=False)
    assert (outcome.converted, outcome.frames, outcome.rejected) == (1, 16, [])
    (stored,) = open_data([tmp_path / "store"])
    folder = GENUINE / name
    trajectory = mdtraj.load(str(folder / f"{name}_prod_R1_fit.xtc"), top=str(folder / f"{name}.pdb"))
    replica = stored.replicas[0]
    assert replica.interval == 10.0 and stored.features.bonded.all()
    assert torch.equal(stored.features.residue_index, torch.arange(1, stored.features.length + 1))
    index = np.arange(16)
    rigids = replica.rigids(index)
    alphas = trajectory.xyz[:, trajectory.topology.select("name CA")]
    assert np.array_equal(rigids.translations.numpy(), alphas)
    atoms = [trajectory.topology.select(f"name {atom}") for atom in ("N", "CA", "C")]
    expected = rigids_from_backbone(torch.from_numpy(np.stack([trajectory.xyz[:, a] for a in atoms], axis=2)))
    between = rigids.rotations.double().transpose(-1, -2) @ expected.rotations.double()
    assert angle_of(between).max() < 9e-4
    # against mdtraj's own angles, residue by residue
    torsions = replica.torsions_at(index)
    functions = (mdtraj.compute_psi, mdtraj.compute_chi1, mdtraj.compute_chi2, mdtraj.compute_chi3, mdtraj.compute_chi4)
    for k, compute in enumerate(functions):
        quartets, values = compute(trajectory)
        owner = [trajectory.topology.atom(quartet[1]).residue.index for quartet in quartets]
        assert stored.torsion_mask[:, k].nonzero()[0].tolist() == sorted(owner)
        assert np.abs(np.angle(np.exp(1j * (torsions[:, owner, k] - values)))).max() < 1e-3


@pytest.mark.skipif(not GENUINE.is_dir(), reason="no shared data")
def test_names_of_protonation_states_change_nothing(tmp_path):
    """HID, CYX and the like in the topology are HIS, CYS to the store, as they are to Protein."""
    source, renamed = GENUINE / "6okd_C", {"HIS": "HID", "CYS": "CYX", "GLU": "GLH"}
    lines = (source / "6okd_C.pdb").read_text().splitlines()
    text = [line[:17] + renamed.get(line[17:20], line[17:20]) + line[20:] for line in lines]
    assert sum("HID" in line for line in text) > 10
    (tmp_path / "odd.pdb").write_text("\n".join(text) + "\n")
    trajectory = source / "6okd_C_prod_R1_fit.xtc"
    prepare([tmp_path / "odd.pdb", trajectory, source], tmp_path / "store", progress=False)
    plain, odd = open_data([tmp_path / "store"])
    assert torch.equal(odd.features.residue_types, plain.features.residue_types) and odd.sequence == plain.sequence
    assert np.array_equal(odd.torsion_mask, plain.torsion_mask)
    index = np.arange(16)
    assert np.array_equal(odd.replicas[0].torsions_at(index), plain.replicas[0].torsions_at(index))


def test_chains_and_numbers_are_those_of_protein():
    """Two chains, a gap in the numbers, odd names: the same residues as Protein makes of them."""
    start = fragment(30)
    topology = start.topology.copy()
    # bonds are found by their atoms' names
    topology._bonds = []
    renamed = {"LYS": "LYN", "MET": "MSE", "ASP": "ASH", "GLU": "GLH"}
    for residue in topology.residues:
        residue.name = renamed.get(residue.name, residue.name)
        residue.resSeq = residue.index + (40 if residue.index < 10 else 52)
        for atom in residue.atoms:
            if residue.name == "MSE" and atom.name == "SD":
                atom.name, atom.element = "SE", mdtraj.element.selenium
    xyz = start.xyz.copy()
    late = [atom.index for atom in topology.atoms if atom.residue.index >= 20]
    later = [atom.index for atom in topology.atoms if atom.residue.index >= 10]
    xyz[:, later] += 0.4
    xyz[:, late] += 1.5
    for residue in topology.residues:
        if residue.index >= 20:
            residue.resSeq = residue.index - 15
    moved = mdtraj.Trajectory(xyz, topology)
    description = describe(moved)
    with pytest.warns(UserWarning, match="MSE|chain broken"):
        protein = Protein.from_openmm(topology.to_openmm(), xyz[0].astype(float))
    features = description.features
    assert np.array_equal(features.residue_types.numpy(), protein.residue_types)
    assert np.array_equal(features.residue_index.numpy(), protein.residue_index)
    assert np.array_equal(features.chain_index.numpy(), protein.chain_index) and protein.chain_index[-1] == 1
    assert np.array_equal(features.bonded.numpy(), protein.bonded) and not protein.bonded.all()
    assert description.sequence == protein.sequence.replace("/", "")
    mask = protein.torsion_mask[:, [1, 3, 4, 5, 6]]
    assert np.array_equal(description.torsion_mask, mask)
    _, torsions = coarse_frames(moved, description)
    difference = torsions[0] - protein.torsions[:, [1, 3, 4, 5, 6]]
    assert np.abs(np.angle(np.exp(1j * difference)))[mask].max() < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not NASTY.is_dir(), reason="no shared data")
def test_nasty_structures_are_read_as_protein_reads_them():
    """Every PDB file that both can read gives the same residues; where Protein refuses, so do we."""
    import warnings

    from openmm.app import PDBFile

    compared = 0
    for path in sorted(NASTY.glob("*.pdb")):
        if path.stat().st_size > 400_000:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pdb = PDBFile(str(path))
                start = mdtraj.load(str(path))[0]
            except Exception:
                continue
            try:
                protein = Protein.from_openmm(pdb.topology, pdb.positions)
            except ValueError as error:
                with pytest.raises(ValueError, match=re.escape(str(error)[:20])):
                    describe(start)
                continue
            features = describe(start).features
        assert np.array_equal(features.residue_types.numpy(), protein.residue_types), path
        assert np.array_equal(features.bonded.numpy(), protein.bonded), path
        assert np.array_equal(features.chain_index.numpy(), protein.chain_index), path
        assert np.array_equal(features.residue_index.numpy(), protein.residue_index), path
        compared += 1
    assert compared > 3


def boxed(trajectory: mdtraj.Trajectory, width: float) -> mdtraj.Trajectory:
    """Every atom wrapped by itself into a cubic box, as some programs write them."""
    count = len(trajectory)
    wrapped = mdtraj.Trajectory(trajectory.xyz % width, trajectory.topology, time=trajectory.time)
    wrapped.unitcell_lengths, wrapped.unitcell_angles = np.full((count, 3), width), np.full((count, 3), 90.0)
    return wrapped


def test_molecules_split_by_the_box_are_made_whole():
    start = fragment()
    description = describe(start)
    whole = wobble(start, 20)
    split = boxed(whole, 4.0)
    assert np.abs(split.xyz - whole.xyz).max() > 1
    backbone, torsions = coarse_frames(split, description)
    expected, angles = coarse_frames(whole, description)
    ours, theirs = (x - x[:, :1, 1:2] for x in (backbone, expected))
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(np.angle(np.exp(1j * (torsions - angles)))).max() < 1e-3
    split.unitcell_vectors = None
    with pytest.raises(ValueError, match=r"frame \d+: chain .* residue \w+ \d+.*make it whole"):
        coarse_frames(split, description)


@pytest.mark.parametrize(
    "place, message",
    [
        (np.nan, " atom CA has no finite position"),
        (9.0, ": atoms N and CA are .* nm apart"),
        ("N", ": atoms N and CA are 0 nm apart"),
    ],
)
def test_frames_that_are_no_protein_are_named(place, message):
    start = fragment()
    description = describe(start)
    xyz = start.xyz.copy()
    residue = start.topology.residue(4)
    atoms = {atom.name: atom.index for atom in residue.atoms}
    xyz[:, atoms["CA"]] = xyz[:, atoms["N"]] if place == "N" else place
    with pytest.raises(ValueError, match=f"frame 7: chain .* residue {residue.name} {residue.resSeq}{message}"):
        coarse_frames(mdtraj.Trajectory(xyz, start.topology), description, np.array([7]))


def test_conversion_is_the_same_in_pieces(chain, store, tmp_path):
    prepare([chain], tmp_path / "pieces", Settings(chunk=7), progress=False)
    for name in ("translations", "rotations", "torsions"):
        for number in (1, 2):
            ours, theirs = (f / "1abc_A" / f"R{number}" / f"{name}.npy" for f in (tmp_path / "pieces", store))
            assert ours.read_bytes() == theirs.read_bytes()


def test_metadata_says_where_it_came_from(store, chain):
    protein = json.loads((store / "1abc_A" / "protein.json").read_text())
    assert protein["source"]["file"] == str(chain / "1abc_A.pdb") and protein["source"]["size"] > 1000
    assert len(protein["residue_names"]) == len(protein["torsions"]) == len(protein["residue_numbers"]) == 12
    replica = json.loads((store / "1abc_A" / "R2" / "replica.json").read_text())
    assert replica["frames"] == 15 and replica["interval"] == 10.0
    assert replica["source"]["size"] == (chain / "1abc_A_prod_R2_fit.xtc").stat().st_size


def test_glycine_alone_has_no_side_chain_torsions(tmp_path):
    """A torsion array may be as narrow as ψ of the bonded residues."""
    start = fragment()
    backbone = start.atom_slice(start.topology.select("backbone and resid 0 to 3"))
    for residue in backbone.topology.residues:
        residue.name = "GLY"
    backbone.save_pdb(str(tmp_path / "gly.pdb"))
    wobble(backbone, 5).save_xtc(str(tmp_path / "gly.xtc"))
    prepare([tmp_path / "gly.pdb", tmp_path / "gly.xtc"], tmp_path / "store", progress=False)
    (protein,) = open_data([tmp_path / "store"])
    assert protein.torsion_mask.tolist() == 3 * [[True] + 4 * [False]] + [5 * [False]]
    assert protein.replicas[0].array("torsions").shape == (5, 3)
    assert replace(protein, name="x").sequence == "GGGG"
