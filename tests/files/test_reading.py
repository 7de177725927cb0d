"""Structure files: every ending, everywhere that a structure is read."""

from __future__ import annotations

import gzip
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from openmm import app, unit
from typer.testing import CliRunner

from openmm_starmd.classical.replicas import Protocol, prepare_model
from openmm_starmd.evaluation.from_files import load_structure
from openmm_starmd.files.reading import load_frames, read_structure, structure_format, structure_name
from tests.proteins import VILLIN

PLAIN = [".pdb", ".ent", "", ".pdb1", ".cif", ".mmcif", ".pdbx", ".PDB", ".Ent", ".CIF"]
ENDINGS = [*PLAIN, *(f"{ending}.gz" for ending in PLAIN if ending), ".PDB.GZ", ".MMCIF.GZ"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, str]:
    """Three inner residues of villin, with a terminal oxygen so that force fields know them, as PDB and as mmCIF."""
    start = mdtraj.load(VILLIN)
    atoms = [a.index for a in start.topology.atoms if 31 < a.residue.index < 35 and a.element.symbol != "H"]
    path = tmp_path_factory.mktemp("input") / "peptide.pdb"
    start.atom_slice(atoms).save_pdb(str(path))
    file = app.PDBFile(str(path))
    next(file.topology.chains()).id = "A"
    with path.open("w") as pdb, path.with_suffix(".cif").open("w") as cif:
        app.PDBFile.writeFile(file.topology, file.positions, pdb, keepIds=True)
        app.PDBxFile.writeFile(file.topology, file.positions, cif, keepIds=True)
    return {"PDB": path.read_text(), "mmCIF": path.with_suffix(".cif").read_text()}


@pytest.fixture
def peptide(texts, tmp_path, request) -> Path:
    """The peptide in a file of the ending asked for."""
    path = tmp_path / f"peptide{request.param}"
    text = texts["mmCIF" if any(name in request.param.lower() for name in ("cif", "pdbx")) else "PDB"]
    path.write_bytes(gzip.compress(text.encode()) if path.name.lower().endswith(".gz") else text.encode())
    return path


@pytest.fixture
def reference(texts, tmp_path) -> mdtraj.Trajectory:
    (tmp_path / "reference.pdb").write_text(texts["PDB"])
    return mdtraj.load(str(tmp_path / "reference.pdb"))


@pytest.mark.parametrize("peptide", ENDINGS, indirect=True)
def test_every_ending_is_read(peptide, reference):
    file = read_structure(peptide)
    assert isinstance(file, app.PDBxFile if structure_format(peptide) == "mmCIF" else app.PDBFile)
    assert np.allclose(file.getPositions(asNumpy=True).value_in_unit(unit.nanometer), reference.xyz[0], atol=1e-6)
    assert [atom.name for atom in file.topology.atoms()] == [atom.name for atom in reference.topology.atoms]
    assert structure_name(peptide) == "peptide"


@pytest.mark.parametrize("peptide", ENDINGS, indirect=True)
def test_mdtraj_reads_every_ending(peptide, reference):
    frame = load_structure(peptide)
    assert frame.n_frames == 1
    assert frame.topology == reference.topology
    assert [residue.resSeq for residue in frame.topology.residues] == [r.resSeq for r in reference.topology.residues]
    if structure_format(peptide) == "PDB":
        assert frame.xyz.tobytes() == reference.xyz.tobytes()
        assert np.array_equal(frame.unitcell_vectors, reference.unitcell_vectors)
    else:
        assert np.allclose(frame.xyz, reference.xyz, atol=1e-6)
        assert np.allclose(frame.unitcell_vectors, reference.unitcell_vectors, atol=1e-3)


@pytest.mark.parametrize("peptide", [".pdb", ".pdb.gz", ".cif", ".cif.gz", ".mmcif", ".pdbx"], indirect=True)
def test_what_mdtraj_reads_stays_the_same(peptide):
    ours, theirs = load_frames(peptide), mdtraj.load(str(peptide))
    assert ours.topology == theirs.topology
    for name in ("xyz", "time", "unitcell_vectors"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


@pytest.mark.parametrize("peptide", [".mmcif", ".CIF", ".pdbx.gz", ".ent", ".PDB.GZ"], indirect=True)
def test_make_data_takes_every_ending(peptide):
    modeller, system = prepare_model(peptide, Protocol())
    assert modeller.topology.getNumResidues() == 3
    assert system.getNumParticles() == modeller.topology.getNumAtoms() > 40


@pytest.mark.parametrize("peptide", [".ent", ".mmcif.gz", ".PDB.GZ"], indirect=True)
def test_run_takes_every_ending(peptide, tmp_path):
    """The structure is read before the weights, which are wrong here."""
    from openmm_starmd.cli.app import app as command

    arguments = ["run", str(peptide), "--weights", "nonsense", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2 and "no weights 'nonsense'" in result.output


@pytest.mark.parametrize("name", ["x.gro", "x.GRO", "x.gro.gz", "x.prmtop", "x.json"])
def test_other_endings_are_refused(tmp_path, name):
    (tmp_path / name).write_text("")
    ending = "." + name.split(".")[1]
    with pytest.raises(ValueError, match=rf"{name} ends in \{ending}: give .* PDB \(.pdb, .ent\) or mmCIF \(.cif"):
        read_structure(tmp_path / name)
    assert structure_format(name) is None


def test_missing_and_damaged_files_are_named(texts, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*x\.pdb"):
        read_structure(tmp_path / "x.pdb")
    with pytest.raises(ValueError, match="there is no file"):
        read_structure(tmp_path)
    (tmp_path / "x.cif").write_text("rubbish\n")
    with pytest.raises(ValueError, match=r"x\.cif cannot be read as mmCIF: "):
        read_structure(tmp_path / "x.cif")
    (tmp_path / "torn.pdb.gz").write_bytes(gzip.compress(texts["PDB"].encode())[:-20])
    with pytest.raises(ValueError, match=r"torn\.pdb\.gz cannot be read as PDB: EOFError"):
        read_structure(tmp_path / "torn.pdb.gz")
    (tmp_path / "plain.pdb.gz").write_text(texts["PDB"])
    with pytest.raises(ValueError, match=r"plain\.pdb\.gz cannot be read as PDB: BadGzipFile"):
        read_structure(tmp_path / "plain.pdb.gz")


def test_residues_without_numbers_are_read_through_openmm(texts, tmp_path):
    """Solvent and ligands have none in mmCIF files without auth_seq_id."""
    (tmp_path / "x.pdb").write_text(texts["PDB"])
    file = app.PDBFile(str(tmp_path / "x.pdb"))
    path = tmp_path / "models.cif"
    with path.open("w") as cif:
        app.PDBxFile.writeHeader(file.topology, cif)
        for model in (1, 2, 3):
            positions = file.getPositions(asNumpy=True) * model
            app.PDBxFile.writeModel(file.topology, positions, cif, model, keepIds=True)
    lines = path.read_text().splitlines()
    column = [line.strip() for line in lines if line.startswith("_atom_site.")].index("_atom_site.auth_seq_id")
    number = list(file.topology.residues())[-1].id
    for i, line in enumerate(lines):
        words = line.split()
        if line.startswith(("ATOM", "HETATM")) and words[column] == number:
            lines[i] = " ".join([*words[:column], ".", *words[column + 1 :]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="invalid literal"):
        mdtraj.load(str(path))
    frames = load_frames(path)
    assert frames.n_frames == 3 and frames.n_atoms == file.topology.getNumAtoms()
    assert np.allclose(frames.xyz[2], 3 * frames.xyz[0], atol=1e-5)


def test_other_formats_of_mdtraj_stay(tmp_path, reference):
    reference.save_gro(str(tmp_path / "x.gro"))
    assert load_structure(tmp_path / "x.gro").n_atoms == reference.n_atoms
