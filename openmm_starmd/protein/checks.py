"""Checks of what a user hands in: positions and periodic box."""

from __future__ import annotations

from typing import Any

import numpy as np
from openmm import app, unit

from openmm_starmd.protein.periodic import NARROWEST_BOX


def checked_positions(topology: app.Topology, positions: Any) -> np.ndarray:
    """Positions as an array [atoms, 3] in nm.

    Parameters
    ----------
    topology : app.Topology
    positions : Quantity or array [atoms, 3]
        Bare numbers mean nm.

    Raises
    ------
    ValueError
        If `topology` is not OpenMM's or is empty, or the positions do not fit it.
    """
    if not isinstance(topology, app.Topology):
        way_out = "; mdtraj's topologies have to_openmm()" if hasattr(topology, "to_openmm") else ""
        raise ValueError(f"topology must be an openmm.app.Topology, not {type(topology).__name__}{way_out}")
    if topology.getNumAtoms() == 0:
        raise ValueError("the topology has no atoms: give the topology of a protein")
    if positions is None:
        raise ValueError("there are no positions: give one structure, [atoms, 3]")
    try:
        if isinstance(positions, unit.Quantity):
            positions = positions.value_in_unit(unit.nanometer)
        elif len(positions) and isinstance(positions[0], unit.Quantity):
            positions = [position.value_in_unit(unit.nanometer) for position in positions]
        array = np.array(positions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"positions must be lengths [atoms, 3], a Quantity or numbers in nm: {error}") from error
    if array.ndim == 3 and array.shape[1:] == (topology.getNumAtoms(), 3):
        raise ValueError(f"positions hold {len(array)} frames: give one of them, positions[0] for the first")
    if array.shape != (topology.getNumAtoms(), 3):
        raise ValueError(
            f"positions have the shape {array.shape}, but the topology has {topology.getNumAtoms()} atoms: "
            f"they must be [{topology.getNumAtoms()}, 3], in the order of the topology"
        )
    return array


def box_vectors(topology: app.Topology) -> tuple[unit.Quantity | None, np.ndarray | None]:
    """Periodic box vectors of a topology, as they are and in rows [3, 3] in nm; None where there is no usable box."""
    box = topology.getPeriodicBoxVectors()
    if box is None:
        return None, None
    vectors = np.array(box.value_in_unit(unit.nanometer), dtype=np.float64)
    if not np.isfinite(vectors).all() or np.abs(np.triu(vectors, 1)).max() > 1e-6 * np.abs(vectors).max():
        raise ValueError(
            f"the topology's periodic box vectors {vectors.tolist()} nm are not in OpenMM's reduced form "
            "(a along x, b in the xy plane): set them with openmm.app.internal.unitcell.reducePeriodicBoxVectors, "
            "or setPeriodicBoxVectors(None) if the structure is whole"
        )
    if np.diag(vectors).min() < NARROWEST_BOX:
        return None, None
    return box, vectors
