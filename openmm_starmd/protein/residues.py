"""An mdtraj topology under the names of OpenMM's, for the rules that both are read by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mdtraj


class View:
    """An mdtraj topology under the names of OpenMM's, which the shared rules read."""

    def __init__(self, topology: mdtraj.Topology) -> None:
        chains = [Chain(chain.index, getattr(chain, "chain_id", None) or "") for chain in topology.chains]
        self._residues = [Residue(residue, chains[residue.chain.index]) for residue in topology.residues]

    def residues(self) -> Iterator[Residue]:
        return iter(self._residues)


@dataclass(frozen=True)
class Chain:
    index: int
    id: str


class Residue:
    def __init__(self, residue: mdtraj.core.topology.Residue, chain: Chain) -> None:
        self.name, self.id, self.chain, self.insertionCode = residue.name, str(residue.resSeq), chain, ""
        self._atoms = list(residue.atoms)

    def atoms(self) -> Iterator[mdtraj.core.topology.Atom]:
        return iter(self._atoms)
