"""Trajectories written chunk by chunk: whole under their name, or not there."""

import mdtraj
import numpy as np
import pytest

from openmm_starmd.atoms.frame_writer import FrameWriter


def chunk(first, frames):
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(4):
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("ALA", chain))
    xyz = np.arange(first, first + frames)[:, None, None] + np.linspace(0, 1, 12).reshape(4, 3)
    return mdtraj.Trajectory(xyz.astype(np.float32), topology, time=np.arange(first, first + frames, dtype=float))


@pytest.mark.parametrize("ending", ["dcd", "xtc", "trr", "nc", "h5", "pdb", "gro"])
def test_chunks_become_one_file(tmp_path, ending):
    path = tmp_path / "new" / f"t.{ending}"
    with FrameWriter(path) as writer:
        writer.write(chunk(0, 2))
        writer.write(chunk(2, 3))
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    found = mdtraj.load(str(path), **({} if ending in ("h5", "pdb", "gro") else {"top": chunk(0, 1).topology}))
    np.testing.assert_allclose(found.xyz, chunk(0, 5).xyz, atol=2e-3)


@pytest.mark.parametrize("ending", ["xtc", "pdb"])
def test_a_failure_leaves_the_older_file(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    path.write_text("older")
    with pytest.raises(ZeroDivisionError), FrameWriter(path) as writer:
        writer.write(chunk(0, 1))
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="no frames"), FrameWriter(path):
        pass
    assert path.read_text() == "older" and len(list(tmp_path.iterdir())) == 1


def test_unknown_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.dcd, \.xtc"):
        FrameWriter(tmp_path / "t.mp4")
