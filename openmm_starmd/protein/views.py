"""An mdtraj topology under the names of OpenMM's, for the rules that both are read by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mdtraj


class View:
    """An mdtraj topology under the names of OpenMM's.

    Parameters
    ----------
    topology : mdtraj.Topology
    """

    def __init__(self, topology: mdtraj.Topology) -> None:
        chains = [Chain(chain.index, getattr(chain, "chain_id", None) or "") for chain in topology.chains]
        self._residues = [Residue(residue, chains[residue.chain.index]) for residue in topology.residues]

    def residues(self) -> Iterator[Residue]:
        """Residues in the order of the topology."""
        return iter(self._residues)


@dataclass(frozen=True)
class Chain:
    """A chain under the names of OpenMM's; `id` is empty where mdtraj knows none."""

    index: int
    id: str


class Residue:
    """A residue under the names of OpenMM's; mdtraj keeps no insertion codes."""

    def __init__(self, residue: mdtraj.core.topology.Residue, chain: Chain) -> None:
        self.name, self.id, self.chain = residue.name, str(residue.resSeq), chain
        self.insertionCode = ""
        self._atoms = list(residue.atoms)

    def atoms(self) -> Iterator[Any]:
        """Atoms of the residue, mdtraj's own."""
        return iter(self._atoms)
