"""Rigids and torsions back to atoms: real structures, ideal geometry, CA traces, and files."""

import csv
import functools
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from openmm import app
from typer.testing import CliRunner

from openmm_starmd.analysis.stereochemistry import stereochemistry
from openmm_starmd.atoms.ca_trace import backbone_from_trace
from openmm_starmd.atoms.frame_writer import FrameWriter
from openmm_starmd.atoms.trajectories import backmap_trajectory
from openmm_starmd.atoms.turning import set_torsions
from openmm_starmd.cli import app as command
from openmm_starmd.geometry.ideal import ATOM_MASK, ATOM_NAMES, CHI_MASK, ideal_atoms
from openmm_starmd.geometry.residues import AMINO_ACIDS, CHI_ATOMS
from openmm_starmd.geometry.torsions import dihedral
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, bundled_weights
from openmm_starmd.protein.backmap import PUCKER
from openmm_starmd.protein.protein import Protein
from tests.proteins import VILLIN

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data")
# many disulfides, several prolines, a helix bundle with Trp
STRUCTURES = ("cobrotoxin_A", "1a8o_A", "6okd_A", "2op7_A")


@functools.cache
def heavy_atoms_of(path: str) -> app.Modeller:
    """Heavy atoms of a PDB file, solvent left out."""
    pdb = app.PDBFile(path)
    modeller = app.Modeller(pdb.topology, pdb.positions)
    left_out = ("HOH", "CL")
    modeller.delete([a for a in pdb.topology.atoms() if a.element.symbol == "H" or a.residue.name.upper() in left_out])
    modeller.topology.setPeriodicBoxVectors(None)
    return modeller


def protein_of(path, keep=lambda atom: True) -> Protein:
    whole = heavy_atoms_of(str(path))
    modeller = app.Modeller(whole.topology, whole.positions)
    modeller.delete([atom for atom in whole.topology.atoms() if not keep(atom)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Protein.from_openmm(modeller.topology, modeller.positions)


@pytest.fixture(scope="module")
def villin_pdb(tmp_path_factory):
    """Villin without its water, in a file."""
    path = tmp_path_factory.mktemp("villin") / "villin.pdb"
    whole = heavy_atoms_of(VILLIN)
    with path.open("w") as file:
        app.PDBFile.writeFile(whole.topology, whole.positions, file, keepIds=True)
    return path


@pytest.fixture(scope="module", params=["villin", *STRUCTURES])
def protein(request):
    if request.param == "villin":
        return protein_of(VILLIN)
    if not DATA.exists():
        pytest.skip("no ../shared/data")
    return protein_of(DATA / "structures" / f"{request.param}.pdb")


@pytest.fixture(scope="module")
def villin():
    return protein_of(VILLIN)


def rmsd(first, second) -> float:
    return float(np.sqrt(((first - second) ** 2).sum(-1).mean()))


def wrong_hands(protein: Protein, xyz) -> int:
    heavy = mdtraj.Topology.from_openmm(protein.frame_topology("heavy"))
    return int(stereochemistry(mdtraj.Trajectory(xyz[None], heavy), protein.bonded).inverted[0])


def lengths_and_angles(topology, xyz):
    near = {atom.index: [] for atom in topology.atoms()}
    for first, second in topology.bonds():
        if {first.name, second.name} != {"SG"}:
            near[first.index].append(second.index)
            near[second.index].append(first.index)
    corners = np.array([(a, b, c) for b, ends in near.items() for i, a in enumerate(ends) for c in ends[i + 1 :]])
    one, two = (xyz[corners[:, k]] - xyz[corners[:, 1]] for k in (0, 2))
    across = np.linalg.norm(xyz[corners[:, 0]] - xyz[corners[:, 2]], axis=-1)
    return np.concatenate([np.linalg.norm(one, axis=-1), np.linalg.norm(two, axis=-1), across])


def test_round_trip(protein):
    own = protein.backmap("heavy").positions
    torsions = protein.torsions[:, [1, 3, 4, 5, 6]]
    placed = protein.frame_positions(protein.backbone, "heavy", torsions)
    ideal = protein.frame_positions(protein.backbone, "heavy", torsions, geometry="ideal")
    assert rmsd(placed, own) < 1e-6
    assert 1e-4 < rmsd(ideal, own) < 0.05
    assert wrong_hands(protein, placed) == wrong_hands(protein, ideal) == 0
    # the count can fail
    assert wrong_hands(protein, placed * [1, 1, -1]) > protein.length / 2
    # ideal geometry keeps the torsions
    measured = protein.backmap("heavy").measure(ideal)
    turned = protein.torsion_mask.copy()
    turned[[letter == "P" for letter in protein.sequence], 3:] = False
    assert np.abs(np.sin((measured - protein.torsions) / 2))[turned].max() < 1e-6


def test_torsions_are_set_down_the_chain(protein):
    """Every χ + 60°, every ψ + 30°: as mdtraj measures them; no bond or angle moves, but those of a disulfide."""
    mapping = protein.backmap("heavy")
    asked = mapping.measure(mapping.positions)
    asked[:, 1] += np.deg2rad(30)
    asked[:, 3:] += np.deg2rad(60)
    asked[[letter == "P" for letter in protein.sequence], 3:] = np.nan
    made = set_torsions(protein, asked)
    trajectory = mdtraj.Trajectory(made[None], mdtraj.Topology.from_openmm(mapping.topology))
    counted = 0
    for name, column in (("psi", 1), ("chi1", 3), ("chi2", 4), ("chi3", 5), ("chi4", 6)):
        quartets, values = getattr(mdtraj, f"compute_{name}")(trajectory)
        for quartet, value in zip(quartets, values[0] if len(quartets) else (), strict=True):
            target = asked[trajectory.topology.atom(quartet[1]).residue.index, column]
            if np.isfinite(target):
                counted += 1
                assert np.rad2deg(abs(np.angle(np.exp(1j * (value - target))))) < 0.1
    assert counted > 1.5 * protein.length
    before = lengths_and_angles(mapping.topology, mapping.positions)
    assert np.abs(lengths_and_angles(mapping.topology, made) - before).max() < 1e-9
    assert wrong_hands(protein, made) == 0
    assert rmsd(made, mapping.positions) > 0.3


def test_frames_at_once_are_frames_one_by_one(protein):
    rng = np.random.default_rng(0)
    backbone = protein.backbone + rng.normal(scale=0.01, size=(3, *protein.backbone.shape))
    torsions = rng.uniform(-np.pi, np.pi, size=(3, protein.length, 5))
    torsions[1, ::2] = np.nan
    for atoms in ("ca", "backbone", "heavy"):
        together = protein.frame_positions(backbone, atoms, torsions)
        alone = [
            protein.frame_positions(*pair, atoms, turned) for *pair, turned in zip(backbone, torsions, strict=True)
        ]
        assert np.abs(together - np.array(alone)).max() < 1e-12
    many = protein.frame_positions(backbone[0], "heavy", torsions)
    assert np.abs(many[2] - protein.frame_positions(backbone[0], "heavy", torsions[2])).max() < 1e-12
    measure = protein.backmap("heavy").measure
    assert np.array_equal(measure(together)[2], measure(together[2]), equal_nan=True)


def test_torsions_of_seven_columns_are_those_of_five(villin):
    columns = [1, 3, 4, 5, 6]
    seven = villin.frame_positions(villin.backbone, "heavy", villin.torsions)
    assert np.array_equal(seven, villin.frame_positions(villin.backbone, "heavy", villin.torsions[:, columns]))
    with pytest.raises(ValueError, match="torsions must have the shape"):
        villin.frame_positions(villin.backbone, "heavy", villin.torsions[:, :6])
    with pytest.raises(ValueError, match="geometry must be one of"):
        villin.frame_positions(villin.backbone, "heavy", geometry="perfect")


@needs_data
def test_ring_of_proline_stays_closed():
    """Whatever χ is asked for: CG-CD and N-CD keep their lengths, χ1 its bound; a pucker that exists is obeyed."""
    protein = protein_of(DATA / "structures" / "2op7_A.pdb")
    mapping = protein.backmap("heavy")
    rings = [
        [atom.index for name in ("N", "CA", "CB", "CG", "CD") for atom in residue.atoms() if atom.name == name]
        for residue in mapping.topology.residues()
        if residue.name == "PRO"
    ]
    assert len(rings) >= 2
    own = mapping.positions[np.array(rings)]
    bonds = np.linalg.norm(own - np.roll(own, -1, 1), axis=-1)
    for angle in np.deg2rad([-170.0, -60.0, 60.0, 120.0]):
        torsions = np.full((protein.length, 5), np.nan)
        torsions[:, 1:] = angle
        ring = protein.frame_positions(protein.backbone, "heavy", torsions)[np.array(rings)]
        assert np.abs(np.linalg.norm(ring - np.roll(ring, -1, 1), axis=-1) - bonds).max() < 1e-9
        chi1 = dihedral(ring[:, 0], ring[:, 1], ring[:, 2], ring[:, 3])
        assert np.abs(chi1).max() <= PUCKER + 1e-9


@pytest.mark.parametrize("lost", ["side chain", "O", "OXT", "CB and beyond"])
def test_missing_atoms_are_completed_and_come_back(lost):
    def keep(atom):
        if lost == "OXT":
            return atom.name != "OXT"
        if atom.residue.index in (3, 20):
            if lost == "O":
                return atom.name != "O"
            if lost == "side chain":
                return atom.name not in ("CG", "CD1", "CD2", "CE1", "CE2", "CZ", "CD", "CE", "NZ")
            return atom.name in ("N", "CA", "C", "O")
        return True

    protein = protein_of(VILLIN, keep)
    complete = protein_of(VILLIN)
    topology = protein.frame_topology("heavy")
    assert topology.getNumAtoms() == complete.frame_topology("heavy").getNumAtoms() - (lost == "OXT")
    own = protein.backmap("heavy").positions
    for geometry, limit in (("input", 1e-6), ("ideal", 0.05)):
        # chi angles of atoms that the input lacked are masked zeros in its torsions: leave them as built
        torsions = np.where(protein.torsion_mask, protein.torsions, np.nan)
        torsions[-1, 1] = protein.torsions[-1, 1]
        placed = protein.frame_positions(protein.backbone, "heavy", torsions, geometry=geometry)
        assert rmsd(placed, own) < limit
        assert wrong_hands(protein, placed) == 0


def test_unknown_residue_is_carried_whole():
    whole = heavy_atoms_of(VILLIN)
    modeller = app.Modeller(whole.topology, whole.positions)
    modeller.delete([])
    for residue in modeller.topology.residues():
        if residue.index == 9:
            residue.name = "XAA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        protein = Protein.from_openmm(modeller.topology, modeller.positions)
    assert "X" in protein.sequence
    own = protein.backmap("heavy").positions
    for geometry in ("input", "ideal"):
        placed = protein.frame_positions(protein.backbone, "heavy", protein.torsions, geometry=geometry)
        inside = [atom.index for atom in protein.frame_topology("heavy").atoms() if atom.residue.name == "XAA"]
        assert len(inside) > 4 and np.abs(placed[inside] - own[inside]).max() < (1e-9 if geometry == "input" else 0.01)


def test_phi_of_proline_is_refused_and_breaks_stop_a_turn(villin):
    proline = villin.sequence.index("P")
    torsions = np.full((villin.length, 7), np.nan)
    torsions[proline, 0] = 0.0
    with pytest.raises(ValueError, match=rf"PRO {villin.residue_index[proline]}: the ring holds"):
        set_torsions(villin, torsions)
    broken = protein_of(VILLIN, lambda atom: atom.residue.index != 12)
    assert not broken.bonded.all()
    torsions = np.full((broken.length, 7), np.nan)
    torsions[3, 1] = 0.0
    moved = set_torsions(broken, torsions, "ca") - broken.backbone[:, 1]
    assert np.abs(moved[5:12]).max() > 0.01 and np.abs(moved[12:]).max() < 1e-12


def test_ideal_table_is_whole():
    types = np.arange(20)
    backbone = np.tile([[-0.0523, 0.1362, 0.0], [0.0, 0.0, 0.0], [0.1525, 0.0, 0.0]], (20, 1, 1))
    torsions = np.random.default_rng(4).uniform(-np.pi, np.pi, size=(6, 20, 5))
    atoms = ideal_atoms(types, backbone, torsions)
    assert ATOM_MASK[:20].sum() == 167 and ATOM_MASK[20].sum() == 4
    for row, name in enumerate(AMINO_ACIDS):
        place = dict(zip(ATOM_NAMES[row], np.moveaxis(atoms[:, row], 1, 0), strict=True))
        assert CHI_MASK[row].sum() == len(CHI_ATOMS[name])
        for k, quartet in enumerate(CHI_ATOMS[name]):
            measured = dihedral(*(place[atom] for atom in quartet))
            # the first torsion is seen from the table's own N, half a degree from the one here
            assert np.rad2deg(np.abs(np.angle(np.exp(1j * (measured - torsions[:, row, k + 1]))))).max() < 3.0


@needs_data
def test_backbone_from_ca_trace():
    """MD frames from their CA alone: near the real ones, whole peptides, the same in any orientation."""
    folder = DATA / "md" / "1tg0_A"
    start = mdtraj.load(str(folder / "1tg0_A.pdb"))
    frames = mdtraj.load(str(folder / "1tg0_A_prod_R1_fit.xtc"), top=start.topology)
    protein = protein_of(folder / "1tg0_A.pdb")
    real = frames.xyz[:, protein.backmap("heavy").backbone].astype(float)
    made = backbone_from_trace(real[:, :, 1], protein.backbone, protein.bonded)
    assert np.array_equal(made[:, :, 1], real[:, :, 1])
    assert np.isfinite(made).all()
    assert rmsd(made[:, 1:-1], real[:, 1:-1]) < 0.03
    bonds = np.linalg.norm(made[:, 1:, 0] - made[:, :-1, 2], axis=-1)
    assert np.abs(bonds - 0.1335).max() < 0.04
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    again = backbone_from_trace(real[:, :, 1] @ turn.T, protein.backbone, protein.bonded)
    assert np.abs(again - made @ turn.T).max() < 1e-9


def wobbling(protein: Protein, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms N, CA and C [N, 3], and heavy atoms [frames, atoms, 3] of a chain that swings about its ψ angles."""
    torsions = np.repeat(protein.backmap("heavy").measure(protein.backmap("heavy").positions)[None], frames, 0)
    torsions[:, :, 1] += np.deg2rad(4) * np.sin(np.arange(frames)[:, None] + np.arange(protein.length))
    return protein.backmap("heavy").backbone, set_torsions(protein, torsions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, villin, villin_pdb):
    """Trajectories of villin with CA, backbone and heavy atoms, 2 ps apart, as a run leaves them."""
    place = tmp_path_factory.mktemp("run")
    index, heavy = wobbling(villin, 7)
    for atoms in ("ca", "backbone", "heavy"):
        xyz = heavy if atoms == "heavy" else villin.frame_positions(heavy[:, index], atoms)
        topology = mdtraj.Topology.from_openmm(villin.frame_topology(atoms))
        trajectory = mdtraj.Trajectory(xyz, topology, time=2.0 * np.arange(1, 8))
        trajectory.save(str(place / f"{atoms}.xtc"))
        trajectory.save(str(place / f"{atoms}.dcd"))
    (place / "config.json").write_text(json.dumps({"input": str(villin_pdb), "stride": 2.0}))
    np.save(place / "heavy.npy", heavy)
    return place


@pytest.mark.parametrize("ending", ["xtc", "dcd", "trr", "nc", "h5", "pdb"])
def test_file_keeps_what_frames_have(folder, villin_pdb, tmp_path, ending, monkeypatch):
    monkeypatch.setattr("openmm_starmd.atoms.trajectories._CHUNK", 900)  # three frames at a time
    output = tmp_path / f"out.{ending}"
    report = backmap_trajectory(folder / "heavy.xtc", output, villin_pdb)
    assert report.source == "heavy" and len(report.frames) == 7
    assert [frame.time_ps for frame in report.frames] == [2.0 * k for k in range(1, 8)]
    made = mdtraj.load(str(output), top=str(tmp_path / "out.pdb"))
    kept = mdtraj.load(str(folder / "heavy.xtc"), top=made.topology)
    assert np.abs(made.xyz - kept.xyz).max() < 2e-4
    if ending not in ("dcd", "pdb"):
        assert np.allclose(made.time, kept.time)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"out.csv", "out.pdb", f"out.{ending}"})
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["frame"] for row in rows] == [str(k) for k in range(7)] and "energy_after" not in rows[0]


def test_dcd_of_a_run_has_the_runs_times_and_structure(folder, tmp_path):
    report = backmap_trajectory(folder / "backbone.dcd", tmp_path / "out.xtc", to="all")
    assert report.source == "backbone"
    made = mdtraj.load(str(tmp_path / "out.xtc"), top=str(tmp_path / "out.pdb"))
    assert np.allclose(made.time, 2.0 * np.arange(1, 8))
    assert made.n_atoms == 582
    heavy = np.load(folder / "heavy.npy")
    names = {(atom.residue.index, atom.name): atom.index for atom in made.topology.atoms}
    rows = [(atom.residue.index, atom.name, atom.index) for atom in protein_of(VILLIN).frame_topology("heavy").atoms()]
    difference = made.xyz[:, [names[i, name] for i, name, _ in rows]] - heavy[:, [k for _, _, k in rows]]
    assert np.sqrt((difference**2).sum(-1).mean()) < 0.001


def test_ca_frames_warn_and_come_near(folder, villin_pdb, tmp_path):
    with pytest.warns(UserWarning, match="estimated from the CA trace"):
        report = backmap_trajectory(folder / "ca.xtc", tmp_path / "out.xtc", villin_pdb)
    assert report.source == "ca"
    made = mdtraj.load(str(tmp_path / "out.xtc"), top=str(tmp_path / "out.pdb"))
    assert rmsd(made.xyz, np.load(folder / "heavy.npy")) < 0.06
    assert sum(frame.inverted for frame in report.frames) == 0


@pytest.mark.slow
@needs_data
def test_minimisation_mends_and_holds_the_backbone(tmp_path):
    """Trp-cage's backbone with another frame's side chains."""
    path = DATA / "structures" / "1l2y_A.pdb"
    protein = protein_of(path)
    index, heavy = wobbling(protein, 2)
    # wrong rotamers make clashes
    torsions = np.full((protein.length, 5), np.nan)
    torsions[5, 1] = 0.3
    torsions[2, 1] = -1.0
    crowded = protein.frame_positions(heavy[:, index], "heavy", np.repeat(torsions[None], 2, 0))
    topology = mdtraj.Topology.from_openmm(protein.frame_topology("heavy"))
    mdtraj.Trajectory(crowded, topology, time=[1.0, 2.0]).save(str(tmp_path / "in.xtc"))
    before = backmap_trajectory(tmp_path / "in.xtc", tmp_path / "as_is.xtc", path)
    after = backmap_trajectory(
        tmp_path / "in.xtc", tmp_path / "out.xtc", path, minimize=True, iterations=15, platform="Reference"
    )
    assert all(frame.clashes for frame in before.frames)
    assert sum(frame.overlap_A for frame in after.frames) < sum(frame.overlap_A for frame in before.frames)
    for frame in after.frames:
        assert frame.energy_before is not None and frame.energy_after is not None and frame.moved_A is not None
        assert frame.energy_after < frame.energy_before and 0 < frame.moved_A < 0.5
    assert "minimisation moved the backbone" in after.summary()
    made = mdtraj.load(str(tmp_path / "out.xtc"), top=str(tmp_path / "out.pdb"))
    assert made.n_atoms == topology.n_atoms and rmsd(made.xyz[:, index], heavy[:, index]) < 0.05


@needs_data
def test_a_frame_that_cannot_be_minimised_is_named(tmp_path):
    path = DATA / "structures" / "1l2y_A.pdb"
    protein = protein_of(path)
    frames = np.repeat(protein.frame_positions(protein.backbone, "heavy")[None], 2, 0)
    index = protein.backmap("heavy").backbone
    frames[1, index[12]] = frames[1, index[3]]
    topology = mdtraj.Topology.from_openmm(protein.frame_topology("heavy"))
    mdtraj.Trajectory(frames, topology, time=[1.0, 2.0]).save(str(tmp_path / "in.dcd"))
    with pytest.raises(ValueError, match=r"frame 1: .*closest atoms.*0\.00 Å"):
        backmap_trajectory(
            tmp_path / "in.dcd", tmp_path / "out.xtc", path, minimize=True, iterations=2, platform="Reference"
        )
    assert not (tmp_path / "out.xtc").exists()


def test_command(folder, tmp_path):
    output = tmp_path / "out.dcd"
    outcome = CliRunner().invoke(command, ["backmap", str(folder / "backbone.xtc"), "--to", "heavy", "-o", str(output)])
    assert outcome.exit_code == 0, outcome.output
    assert re.search(r"7 frames, backbone to heavy: \d+ clashes left", outcome.output)
    assert mdtraj.load(str(output), top=str(tmp_path / "out.pdb")).n_frames == 7


@pytest.mark.slow
@pytest.mark.skipif(DEFAULT_WEIGHTS not in bundled_weights(), reason="no bundled weights")
def test_example(tmp_path):
    """examples/refine.py as a user runs it, on few frames with few iterations."""
    script = Path(__file__).parents[2] / "examples" / "refine.py"
    few = {"FRAMES": "2", "ITERATIONS": "3", "OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=os.environ | few, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "2 frames, backbone to all" in done.stdout
    made = mdtraj.load(str(tmp_path / "refined.xtc"), top=str(tmp_path / "refined.pdb"))
    assert (made.n_frames, made.n_atoms) == (2, 582)
    rows = list(csv.DictReader((tmp_path / "refined.csv").open()))
    assert all(float(row["energy_after"]) < float(row["energy_before"]) for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trajectory": "missing.xtc"}, "there is no file"),
        ({"output": "out.docx"}, "the ending must be one of"),
        ({"to": "everything"}, "to must be one of"),
        ({"output": "ca.xtc"}, "is the trajectory itself"),
        ({"topology": "structures"}, "has 35 atoms a frame; frames of"),
    ],
)
def test_errors_say_what_to_do(folder, villin_pdb, tmp_path, change, message):
    if "topology" in change:
        if not DATA.exists():
            pytest.skip("no ../shared/data")
        change = {"topology": DATA / "structures" / "1l2y_A.pdb"}
    given = {"trajectory": "ca.xtc", "output": "out.xtc", "topology": villin_pdb, "to": "heavy"} | change
    output = folder / given["output"] if given["output"] == "ca.xtc" else tmp_path / given["output"]
    with pytest.raises(ValueError, match=message):
        backmap_trajectory(folder / given["trajectory"], output, given["topology"], to=given["to"])
    assert not list(tmp_path.iterdir())


def test_a_failed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.xtc"
    path.write_text("old")
    frame = mdtraj.Trajectory(np.zeros((1, 3, 3)), None)
    with pytest.raises(RuntimeError), FrameWriter(path) as writer:
        writer.write(frame)
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["out.xtc"]
