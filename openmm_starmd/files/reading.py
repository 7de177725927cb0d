"""One reader of structure files."""

from __future__ import annotations

import os
from pathlib import Path

from openmm import app


def read_structure(path: str | os.PathLike[str]) -> app.PDBFile | app.PDBxFile:
    """Read a PDB or mmCIF file (``.cif``, ``.mmcif``, ``.pdbx``); anything unreadable raises a ValueError."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    cif = path.suffix.lower() in (".cif", ".mmcif", ".pdbx")
    try:
        return app.PDBxFile(str(path)) if cif else app.PDBFile(str(path))
    except Exception as error:
        # OpenMM's parsers raise whatever the damage happens to cause
        kind = "mmCIF" if cif else "PDB"
        raise ValueError(f"{path} cannot be read as {kind}: {type(error).__name__}: {error}") from error
