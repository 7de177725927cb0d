"""Reading trajectories that users name, with errors they can act on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mdtraj


def load_structure(path: Path) -> mdtraj.Trajectory:
    """First frame of a structure file, or a ValueError that says it cannot be read."""
    import mdtraj

    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        frames = mdtraj.load(str(path))
        return frames[0]
    except Exception as error:
        # mdtraj's readers raise whatever the damage happens to cause
        raise ValueError(f"{path} cannot be read as a structure: {type(error).__name__}: {error}") from error


def check_atoms(path: Path, topology: mdtraj.Topology, named: Path) -> None:
    """Raise a ValueError unless a trajectory can be read and has as many atoms as its topology.

    Readers that pick atoms by index do not compare the numbers and would hand out nonsense.

    Parameters
    ----------
    path : Path
        Trajectory.
    topology : mdtraj.Topology
    named : Path
        File the topology came from, for the message.
    """
    import mdtraj

    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix.lower() not in (".dcd", ".xtc", ".trr", ".nc", ".h5"):
        return
    try:
        with mdtraj.open(str(path)) as file:
            first = file.read(1)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a trajectory: {type(error).__name__}: {error}") from error
    xyz = first[0] if isinstance(first, tuple) and not hasattr(first, "coordinates") else first.coordinates
    if xyz.shape[-2] != topology.n_atoms:
        raise ValueError(
            f"{path} has {xyz.shape[-2]} atoms and its topology {named} has {topology.n_atoms}: name the PDB file the "
            "trajectory was written with"
        )
