"""One reader of structure files: which endings they have, and what OpenMM or mdtraj makes of them."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import mdtraj
    from openmm import app

ENDINGS = "PDB (.pdb, .ent) or mmCIF (.cif, .mmcif, .pdbx), each also as .gz"
"""For messages; upper and lower case are the same."""
# the Protein Data Bank's biological assemblies end in .pdb1, .pdb2 and so on
_PDB, _MMCIF = re.compile(r"\.(pdb\d*|ent)"), re.compile(r"\.(cif|mmcif|pdbx)")


def structure_format(path: str | os.PathLike[str]) -> str | None:
    """Format of a structure file by its name.

    Returns
    -------
    str or None
        "PDB", also for a name without an ending, "mmCIF", or None for any other ending.
    """
    ending = _without_gz(path).suffix.lower()
    if not ending or _PDB.fullmatch(ending):
        return "PDB"
    return "mmCIF" if _MMCIF.fullmatch(ending) else None


def structure_name(path: str | os.PathLike[str]) -> str:
    """Name of a structure file without its folder and ending: "1abc" of "data/1abc.pdb.gz"."""
    return _without_gz(path).stem


def read_structure(path: str | os.PathLike[str]) -> app.PDBFile | app.PDBxFile:
    """Read a structure file with OpenMM.

    Parameters
    ----------
    path : path
        PDB (``.pdb``, ``.ent``, or no ending) or mmCIF (``.cif``, ``.mmcif``, ``.pdbx``), each also as ``.gz``.

    Returns
    -------
    app.PDBFile or app.PDBxFile

    Raises
    ------
    ValueError
        If there is no such file, its ending is another, or it cannot be read.
    """
    from openmm import app

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    kind = structure_format(path)
    if kind is None:
        raise ValueError(f"{path} ends in {_without_gz(path).suffix}: give the structure as {ENDINGS}")
    try:
        with _opened(path) as file:
            return app.PDBxFile(file) if kind == "mmCIF" else app.PDBFile(file)
    except Exception as error:
        # OpenMM's parsers raise whatever the damage happens to cause
        raise ValueError(f"{path} cannot be read as {kind}: {type(error).__name__}: {error}") from error


def load_frames(path: str | os.PathLike[str]) -> mdtraj.Trajectory:
    """Read a structure file with mdtraj, or through OpenMM where mdtraj cannot.

    Parameters
    ----------
    path : path
        Of a format of :func:`read_structure`, or any other that mdtraj reads without a topology.

    Returns
    -------
    mdtraj.Trajectory
        All frames, nm.

    Raises
    ------
    Exception
        Whatever mdtraj's readers raise; a ValueError for what neither of them can read.
    """
    import mdtraj
    from mdtraj.formats.pdbx import load_pdbx

    kind = structure_format(path)
    if kind is None:
        return mdtraj.load(str(path))
    if kind == "PDB":
        return mdtraj.load_pdb(str(path))
    try:
        return load_pdbx(str(path))
    except Exception:
        # mdtraj's parser is OpenMM's, but wants a number of every residue, which solvent and ligands may lack
        return _through_openmm(path)


def _through_openmm(path: str | os.PathLike[str]) -> mdtraj.Trajectory:
    """All models of a structure file, read by OpenMM."""
    import mdtraj
    import numpy as np
    from openmm import unit

    file = read_structure(path)
    xyz = [file.getPositions(asNumpy=True, frame=i).value_in_unit(unit.nanometer) for i in range(file.getNumFrames())]
    frames = mdtraj.Trajectory(np.array(xyz), mdtraj.Topology.from_openmm(file.topology))
    box = file.topology.getPeriodicBoxVectors()
    if box is not None:
        frames.unitcell_vectors = np.tile(np.array(box.value_in_unit(unit.nanometer)), (len(frames), 1, 1))
    return frames


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[str | TextIO]:
    """What OpenMM's readers take: the name, or the text of a compressed file."""
    if path.suffix.lower() != ".gz":
        yield str(path)
        return
    with gzip.open(path, "rt") as file:
        yield file


def _without_gz(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path
