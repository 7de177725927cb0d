"""Protein: an OpenMM topology with positions as residues, backbones and torsions, and the way back to atoms."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from openmm import app, unit

from openmm_starmd.geometry.residues import AMINO_ACIDS, BACKBONE
from openmm_starmd.protein.backmap import GEOMETRIES, BackMap
from openmm_starmd.protein.completion import build_missing_atoms, ideal_oxygen
from openmm_starmd.protein.residues import Residues, measure_torsions, missing_heavy_atoms, read_residues
from openmm_starmd.protein.selection import label
from openmm_starmd.protein.topologies import (
    box_vectors,
    ca_topology,
    checked_positions,
    protein_topology,
    restricted_topology,
)

ATOMS = ("ca", "backbone", "heavy")
_SOLVENT_AND_IONS = """
HOH WAT H2O SOL DOD TIP TIP2 TIP3 TIP4 TIP5 TP3 TP4 TP5 T3P T4P SPC SPCE OPC
NA CL K LI RB CS BR IOD F NA+ CL- K+ SOD CLA POT CES LIT RUB IP IM ION NIO CIO
ACE NME NMA NH2 NHE FOR GOL EDO PEG SO4 PO4 ACT DMS FMT
"""


@dataclass(frozen=True, eq=False, repr=False)
class Protein(Residues):
    """The protein of an OpenMM topology.

    Attributes
    ----------
    topology : app.Topology
        Kept residues, heavy atoms only, in the input's order and under standard names, with bonds.
    positions : np.ndarray [atoms, 3]
        nm, made whole across the periodic box.
    box : unit.Quantity or None
        Periodic box vectors of the input; None for the dummy cell of 1 Å that NMR entries carry.
    residue_types : np.ndarray [N], int64
        0 to 19 in the order of AMINO_ACIDS, 20 for unknown.
    residue_index : np.ndarray [N], int64
        Position along the chain.
    chain_index : np.ndarray [N], int64
        A chain of the input that holds several molecules is split.
    bonded : np.ndarray [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C, nm.
    torsions : np.ndarray [N, 7]
        φ, ψ, ω (of the bond to the next residue), χ1..4, radians; 0 where there is none. Where there is no next
        residue, ψ is masked but holds the angle that O stands for: back-mapping with these torsions changes nothing.
    torsion_mask : np.ndarray [N, 7], bool
        Which of the torsions exist.
    sequence : str
        One-letter codes, X for unknown, chains joined by "/".
    dropped : tuple of str
        What was left out, "HOH x 8000" and the like.

    Notes
    -----
    All that is read of the residues is described, in more detail, by :class:`openmm_starmd.protein.residues.Residues`.
    """

    topology: app.Topology
    box: unit.Quantity | None
    torsions: np.ndarray

    @classmethod
    def from_openmm(cls, topology: app.Topology, positions: Any) -> Protein:
        """Coarse-grain a topology with positions.

        Solvent, ions, ligands, caps and nucleic acids are left out, modified residues read as their standard parent,
        and a molecule that is split across the periodic box of `topology` is made whole. One warning says so.

        Parameters
        ----------
        topology : app.Topology
        positions : Quantity or array [atoms, 3]
            One structure; bare numbers mean nm.

        Returns
        -------
        Protein

        Raises
        ------
        ValueError
            If there are fewer than three protein residues, one lacks N, CA or C, or the positions do not fit; names the
            chain, residue and atom, and says what to do.
        """
        xyz = checked_positions(topology, positions)
        box, vectors = box_vectors(topology)
        residues = read_residues(topology, xyz, vectors)
        protein = cls(
            **vars(residues),
            topology=protein_topology(residues, topology, box),
            box=box,
            torsions=measure_torsions(residues),
        )
        notes = protein._notes()
        if notes:
            warnings.warn("; ".join(notes), UserWarning, stacklevel=2)
        return protein

    def residue_label(self, i: int) -> str:
        """How messages name residue `i`: "chain A residue ALA 12"."""
        return label(self._residues[i])

    def frame_topology(self, atoms: str) -> app.Topology:
        """Topology of the atoms that a frame holds.

        Parameters
        ----------
        atoms : {"ca", "backbone", "heavy"}
            "backbone" is N, CA, C, O; "heavy" completes side chains that lack atoms, with OXT where the input has it.

        Returns
        -------
        app.Topology
            With the input's box.
        """
        _check_atoms(atoms)
        return self._ca_topology if atoms == "ca" else self._maps(atoms).topology

    def frame_positions(
        self, backbone: Any, atoms: str, torsions: ArrayLike | None = None, *, geometry: str = "input"
    ) -> np.ndarray:
        """Positions of the atoms that a frame holds.

        Parameters
        ----------
        backbone : array [N, 3, 3] or [F, N, 3, 3]
            N, CA, C, nm, of one frame or several; they come back to the bit.
        atoms : {"ca", "backbone", "heavy"}
        torsions : array [N, 5 or 7] or [F, N, 5 or 7], optional
            ψ and χ1..4, or all of :attr:`torsions`, radians, as :meth:`BackMap.place` reads them; the input's own
            angles by default.
        geometry : {"input", "ideal"}
            Whose bond lengths and angles the atoms beyond N, CA and C have: the input's, or
            :mod:`openmm_starmd.geometry.ideal`'s.

        Returns
        -------
        np.ndarray [atoms of ``frame_topology(atoms)``, 3] or [F, atoms, 3]
            nm.
        """
        backbone = self._frames("backbone", backbone, (3, 3))
        if torsions is not None:
            torsions = self._frames("torsions", torsions, (7,) if np.shape(torsions)[-1:] == (7,) else (5,))
        _check_atoms(atoms)
        if atoms == "ca":
            return backbone[..., 1, :].copy()
        return self.backmap(atoms, geometry).place(backbone, torsions)

    def backmap(self, atoms: str, geometry: str = "input") -> BackMap:
        """What places and measures the atoms of :meth:`frame_topology`, "backbone" or "heavy"."""
        if atoms not in ATOMS[1:]:
            raise ValueError(f"atoms must be one of {', '.join(ATOMS[1:])}, not {atoms!r}")
        if geometry not in GEOMETRIES:
            raise ValueError(f"geometry must be one of {', '.join(GEOMETRIES)}, not {geometry!r}")
        if geometry == "ideal":
            return self._ideal_backbone_map if atoms == "backbone" else self._ideal_heavy_map
        return self._maps(atoms)

    def backbone_from_frame(self, positions: Any, atoms: str) -> np.ndarray | None:
        """N, CA, C [N, 3, 3] picked from a frame's positions, nm; None for "ca", whose frames do not hold them."""
        _check_atoms(atoms)
        if atoms == "ca":
            return None
        index = self._maps(atoms).backbone
        count = self.frame_topology(atoms).getNumAtoms()
        return _shaped("positions", positions, (count, 3))[index]

    @functools.cached_property
    def _residues(self) -> list[app.topology.Residue]:
        return list(self.topology.residues())

    @functools.cached_property
    def _ca_topology(self) -> app.Topology:
        return ca_topology(self.topology, self.bonded)

    @functools.cached_property
    def _missing_oxygens(self) -> dict[tuple[int, str], np.ndarray]:
        ideal = ideal_oxygen(self.backbone, self.bonded)
        present = [{atom.name for atom in residue.atoms()} for residue in self._residues]
        return {(i, "O"): ideal[i] for i, names in enumerate(present) if "O" not in names}

    @functools.cached_property
    def _backbone_map(self) -> BackMap:
        reduced = restricted_topology(self.topology, self.positions, self._missing_oxygens, BACKBONE)
        return BackMap(*reduced, self.bonded)

    @functools.cached_property
    def _heavy_map(self) -> BackMap:
        topology, positions = restricted_topology(self.topology, self.positions, self._missing_oxygens)
        if missing_heavy_atoms(topology):
            topology, positions = restricted_topology(topology, positions, build_missing_atoms(topology, positions))
        return BackMap(topology, positions, self.bonded)

    @functools.cached_property
    def _ideal_backbone_map(self) -> BackMap:
        return self._backbone_map.with_ideal_geometry()

    @functools.cached_property
    def _ideal_heavy_map(self) -> BackMap:
        return self._heavy_map.with_ideal_geometry()

    def _frames(self, what: str, values: Any, last: tuple[int, ...]) -> np.ndarray:
        """Values [N, *last] of one frame or of several."""
        leading = np.shape(values)[:1] if np.ndim(values) == len(last) + 2 else ()
        return _shaped(what, values, (*leading, len(self.backbone), *last))

    def _maps(self, atoms: str) -> BackMap:
        return self._backbone_map if atoms == "backbone" else self._heavy_map

    def _notes(self) -> list[str]:
        """What the warning says, one clause each."""
        same_chain = self.chain_index[1:] == self.chain_index[:-1]
        breaks = [self.residue_label(int(i)) for i in np.flatnonzero(same_chain & ~self.bonded)]
        lacking = [self.residue_label(i) for i in missing_heavy_atoms(self.topology)]
        notes = []
        for intro, items in (
            ("left out: ", self.dropped),
            ("read as their standard parent: ", self.renamed),
            ("kept as unknown residues: ", self.unknown),
            ("chain broken (marked, not bridged) after ", breaks),
            ("heavy atoms are missing (and completed when asked for) in ", lacking),
        ):
            if items:
                more = f" and {len(items) - 12} more" if len(items) > 12 else ""
                notes.append(intro + ", ".join(items[:12]) + more)
        return notes


def describe_differences(protein: Protein, max_length: int, multichain: bool) -> str | None:
    """How an input differs from what weights were trained on.

    Parameters
    ----------
    protein : Protein
    max_length : int
        Residues of the longest training protein.
    multichain : bool
        Whether complexes were trained on.

    Returns
    -------
    str or None
        One sentence, or None if there is nothing to say.
    """
    differences = []
    if protein.length > max_length:
        differences.append(f"has {protein.length} residues (trained on at most {max_length})")
    chains = int(protein.chain_index[-1]) + 1
    if chains > 1 and not multichain:
        differences.append(f"has {chains} chains (trained on single chains)")
    names = [entry.rsplit(" x ", 1)[0] for entry in protein.dropped]
    expected = _SOLVENT_AND_IONS.split()
    cofactors = [name for name in names if name.strip().upper() not in expected and " " not in name.strip()]
    if cofactors:
        differences.append(f"lost what it was bound to ({', '.join(cofactors)})")
    unknown = int((protein.residue_types == len(AMINO_ACIDS)).sum())
    if unknown:
        differences.append(f"has {unknown} unknown residue(s)")
    if not differences:
        return None
    return "This protein differs from what the weights were trained on: it " + ", ".join(differences) + "."


def _check_atoms(atoms: str) -> None:
    if atoms not in ATOMS:
        raise ValueError(f"atoms must be one of {', '.join(ATOMS)}, not {atoms!r}")


def _shaped(what: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(values, unit.Quantity):
        values = values.value_in_unit(unit.nanometer)
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{what} must have the shape {shape}, not {array.shape}")
    return array
