"""Making MD data: layout, restart, several processes. A three-residue peptide and few steps keep it short."""

from __future__ import annotations

import re
import shutil

import mdtraj
import numpy as np
import pytest

from openmm_starmd.classical.many import make_data
from openmm_starmd.classical.replicas import Protocol, make_replica
from tests.proteins import VILLIN

QUICK = Protocol(equilibration=0.04, minimization=20, interval=0.02)


@pytest.fixture(scope="module")
def peptide(tmp_path_factory):
    """Three inner residues of villin without hydrogens, with a terminal oxygen so that the force field knows them."""
    start = mdtraj.load(VILLIN)
    atoms = [a.index for a in start.topology.atoms if 31 < a.residue.index < 35 and a.element.symbol != "H"]
    path = tmp_path_factory.mktemp("input") / "peptide.pdb"
    start.atom_slice(atoms).save_pdb(str(path))
    return path


@pytest.mark.slow
def test_replica_goes_on_where_it_was_killed(peptide, tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        make_replica(peptide, tmp_path, 0.2, protocol=QUICK, chunk=2, progress=kill)
    folder = tmp_path / "peptide"
    first = mdtraj.load(str(folder / "peptide_prod_R1_fit.xtc"), top=str(folder / "peptide.pdb"))
    path = make_replica(peptide, tmp_path, 0.2, protocol=QUICK, chunk=2)
    whole = mdtraj.load(str(path), top=str(folder / "peptide.pdb"))
    assert first.n_frames == 4 and whole.n_frames == 10
    np.testing.assert_allclose(whole.xyz[:4], first.xyz, atol=2e-3)
    np.testing.assert_allclose(whole.time, 0.02 * np.arange(1, 11), atol=1e-5)
    # positions after the restart continue the motion: no jump larger than those before it
    jumps = np.linalg.norm(np.diff(whole.xyz, axis=0), axis=-1).max(1)
    assert jumps[3] < 3 * np.median(jumps)
    assert not any(a.element.symbol == "H" for a in whole.topology.atoms)
    assert not [p for p in folder.iterdir() if p.name.startswith(".partial")]


@pytest.mark.slow
def test_a_resumed_replica_has_noise_of_its_own(peptide, tmp_path):
    """From one state, taken for that of another frame, the motion goes on otherwise."""
    make_replica(peptide, tmp_path / "4", 0.08, protocol=QUICK, platform="Reference")
    shutil.copytree(tmp_path / "4", tmp_path / "3")
    last = []
    for done in (4, 3):
        folder = tmp_path / str(done) / "peptide"
        state = folder / "peptide_prod_R1.state.xml"
        state.write_text(re.sub(r'time="[^"]+"', f'time="{0.02 * done}"', state.read_text()))
        path = make_replica(peptide, tmp_path / str(done), 0.02 * (done + 5), protocol=QUICK, platform="Reference")
        last.append(mdtraj.load(str(path), top=str(folder / "peptide.pdb"))[-1])
    start = mdtraj.load(str(tmp_path / "4" / "peptide" / "peptide.pdb"))
    first, second = (frame.superpose(start).xyz[0] for frame in last)
    # the same state 0.02 ps before: without other noise the frames would be the same but for the rounding of the file
    assert np.abs(first - second).max() > 3e-3


def test_replicas_differ_and_share_one_model(peptide, tmp_path):
    for replica in (1, 2):
        make_replica(peptide, tmp_path, 0.1, replica=replica, protocol=QUICK)
    folder = tmp_path / "peptide"
    one, two = (
        mdtraj.load(str(folder / f"peptide_prod_R{r}_fit.xtc"), top=str(folder / "peptide.pdb")) for r in (1, 2)
    )
    assert np.abs(one.xyz - two.xyz).max() > 1e-3
    assert len(list(folder.glob("*.model.pdb"))) == 1


def test_interval_must_be_whole_steps():
    with pytest.raises(ValueError, match="whole number"):
        _ = Protocol(interval=0.01).steps_per_frame


@pytest.mark.slow
def test_many_proteins_in_processes(peptide, tmp_path):
    broken = tmp_path / "broken.pdb"
    broken.write_text("".join(line for line in peptide.read_text().splitlines(True) if " CB " not in line))
    lines: list[str] = []
    failed = make_data([peptide, broken], tmp_path / "out", 1.0, replicas=2, workers=2, report=lines.append)
    assert list(failed) == ["broken"] and "No template" in failed["broken"]
    assert sorted(lines)[1:] == ["peptide R1: 1 ps done", "peptide R2: 1 ps done"]
    assert len(list((tmp_path / "out" / "peptide").glob("*_fit.xtc"))) == 2
    with pytest.raises(ValueError, match="several inputs are named peptide"):
        make_data([peptide, peptide], tmp_path / "out", 1.0)
    with pytest.raises(ValueError, match="no such file"):
        make_data([tmp_path / "none.pdb"], tmp_path / "out", 1.0)
