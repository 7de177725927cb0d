"""Proteins: topologies and positions as residues, rigids and torsions, and the way back to atoms.

:class:`Protein` is imported at first use, so that rooms which know no OpenMM can use the others here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_starmd.protein.protein import Protein, describe_differences

__all__ = ["Protein", "describe_differences"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'openmm_starmd.protein' has no attribute {name!r}")
    from openmm_starmd.protein import protein

    value = getattr(protein, name)
    globals()[name] = value
    return value
