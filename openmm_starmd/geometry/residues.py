"""Amino acids: names, heavy atoms, bonds and their lengths, χ angles, and how far apart atoms may lie."""

from __future__ import annotations

THREE_TO_ONE = {
    "ALA": "A",
    "ARG": "R",
    "ASN": "N",
    "ASP": "D",
    "CYS": "C",
    "GLN": "Q",
    "GLU": "E",
    "GLY": "G",
    "HIS": "H",
    "ILE": "I",
    "LEU": "L",
    "LYS": "K",
    "MET": "M",
    "PHE": "F",
    "PRO": "P",
    "SER": "S",
    "THR": "T",
    "TRP": "W",
    "TYR": "Y",
    "VAL": "V",
}
AMINO_ACIDS = tuple(THREE_TO_ONE)
ONE_TO_THREE = {one: three for three, one in THREE_TO_ONE.items()}
UNKNOWN = len(AMINO_ACIDS)

BACKBONE = ("N", "CA", "C", "O")
BACKBONE_BONDS = (("N", "CA"), ("CA", "C"), ("C", "O"), ("C", "OXT"))

_SIDE_CHAINS = {
    "ALA": "CA-CB",
    "ARG": "CA-CB CB-CG CG-CD CD-NE NE-CZ CZ-NH1 CZ-NH2",
    "ASN": "CA-CB CB-CG CG-OD1 CG-ND2",
    "ASP": "CA-CB CB-CG CG-OD1 CG-OD2",
    "CYS": "CA-CB CB-SG",
    "GLN": "CA-CB CB-CG CG-CD CD-OE1 CD-NE2",
    "GLU": "CA-CB CB-CG CG-CD CD-OE1 CD-OE2",
    "GLY": "",
    "HIS": "CA-CB CB-CG CG-ND1 CG-CD2 ND1-CE1 CD2-NE2 CE1-NE2",
    "ILE": "CA-CB CB-CG1 CB-CG2 CG1-CD1",
    "LEU": "CA-CB CB-CG CG-CD1 CG-CD2",
    "LYS": "CA-CB CB-CG CG-CD CD-CE CE-NZ",
    "MET": "CA-CB CB-CG CG-SD SD-CE",
    "PHE": "CA-CB CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    "PRO": "CA-CB CB-CG CG-CD CD-N",
    "SER": "CA-CB CB-OG",
    "THR": "CA-CB CB-OG1 CB-CG2",
    "TRP": "CA-CB CB-CG CG-CD1 CG-CD2 CD1-NE1 NE1-CE2 CD2-CE2 CD2-CE3 CE2-CZ2 CE3-CZ3 CZ2-CH2 CZ3-CH2",
    "TYR": "CA-CB CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ CZ-OH",
    "VAL": "CA-CB CB-CG1 CB-CG2",
}

SIDE_CHAIN_BONDS: dict[str, tuple[tuple[str, str], ...]] = {
    name: tuple((bond.split("-")[0], bond.split("-")[1]) for bond in bonds.split())
    for name, bonds in _SIDE_CHAINS.items()
}

# N, CA, C, O and then the side chain outwards
HEAVY_ATOMS: dict[str, tuple[str, ...]] = {
    name: tuple(dict.fromkeys(BACKBONE + tuple(atom for bond in bonds for atom in bond)))
    for name, bonds in SIDE_CHAIN_BONDS.items()
}

# IUPAC-IUB 1970; the same quartets as mdtraj's compute_chi1 to compute_chi4, whose values the networks are trained on
CHI_ATOMS: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "ALA": (),
    "ARG": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD"), ("CB", "CG", "CD", "NE"), ("CG", "CD", "NE", "CZ")),
    "ASN": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "OD1")),
    "ASP": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "OD1")),
    "CYS": (("N", "CA", "CB", "SG"),),
    "GLN": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD"), ("CB", "CG", "CD", "OE1")),
    "GLU": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD"), ("CB", "CG", "CD", "OE1")),
    "GLY": (),
    "HIS": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "ND1")),
    "ILE": (("N", "CA", "CB", "CG1"), ("CA", "CB", "CG1", "CD1")),
    "LEU": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD1")),
    "LYS": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD"), ("CB", "CG", "CD", "CE"), ("CG", "CD", "CE", "NZ")),
    "MET": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "SD"), ("CB", "CG", "SD", "CE")),
    "PHE": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD1")),
    "PRO": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD")),
    "SER": (("N", "CA", "CB", "OG"),),
    "THR": (("N", "CA", "CB", "OG1"),),
    "TRP": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD1")),
    "TYR": (("N", "CA", "CB", "CG"), ("CA", "CB", "CG", "CD1")),
    "VAL": (("N", "CA", "CB", "CG1"),),
}

SYMMETRIC_CHI = {("ASP", 1), ("GLU", 2), ("PHE", 1), ("TYR", 1)}
"""χ angles, by residue and index from 0, that a turn by π leaves physically the same, only with names exchanged."""

# Residues whose χ1, χ2, χ3, χ4 has three staggered wells. What turns about a bond to an sp2 atom, the broad χ3 of Met
# and the ring of Pro have none.
STAGGERED_CHI: tuple[tuple[str, ...], ...] = (
    tuple(name for name in AMINO_ACIDS if name not in ("ALA", "GLY", "PRO")),
    ("ARG", "GLN", "GLU", "ILE", "LEU", "LYS", "MET"),
    ("ARG", "LYS"),
    ("LYS",),
)

# Names of protonation and disulfide states in Amber, CHARMM, GROMACS and OPLS, and selenium for sulfur
ALTERNATIVE_NAMES = {
    alternative: name
    for name, alternatives in {
        "ARG": "ARGN ARN",
        "ASP": "ASH ASPH ASPP",
        "CYS": "CYX CYM CYS1 CYS2 CYSH CYN SEC CSE",
        "GLU": "GLH GLUH GLUP",
        "HIS": "HID HIE HIP HIH HISD HISE HISH HISP HIS1 HIS2 HISA HISB HSD HSE HSP HSH",
        "LYS": "LYN LYP LYSH LSN",
        "MET": "MSE",
        "TYR": "TYM TYRM",
    }.items()
    for alternative in alternatives.split()
}

SELENIUM = ("MSE", "SEC", "CSE")

# Atom names of CHARMM, GROMACS and OPLS termini, by the name of the Protein Data Bank
ALTERNATIVE_BACKBONE_ATOMS = {
    "O1": "O",
    "OT1": "O",
    "OC1": "O",
    "OCT1": "O",
    "O2": "OXT",
    "OT2": "OXT",
    "OC2": "OXT",
    "OCT2": "OXT",
    "OT": "OXT",
}
# Selenium sits where sulfur does; CHARMM and GROMACS call the δ carbon of isoleucine CD
ALTERNATIVE_SIDE_CHAIN_ATOMS = {("ILE", "CD"): "CD1", ("MET", "SE"): "SD", ("CYS", "SE"): "SG"}

BOND_LENGTHS = {"N-CA": 0.1458, "CA-C": 0.1525, "C-N": 0.1329}
"""Standard lengths of the bonds of the backbone, nm (Engh and Huber 1991, Acta Cryst. A47, 392)."""
CARBONYL_LENGTH = 0.1231
"""C=O, nm (Engh and Huber 2001)."""
CARBONYL_ANGLE = 120.1
"""CA-C-O, degrees (Engh and Huber 2001)."""

PEPTIDE_BOND = 0.2
"""Longest C-N distance of a peptide bond, nm; the ideal is 0.133, and 0.2 leaves room for strained inputs."""
DISULFIDE = 0.25
"""Longest S-S distance of a disulfide, nm; the ideal is 0.205."""
COINCIDENT_ATOMS = 0.05
"""N-CA or CA-C distance, nm, below which a structure's atoms lie on one another."""
BROKEN_BOND = 0.3
"""N-CA or CA-C distance, nm, above which a structure's residue is not in one piece."""
TORN_BOND = 0.5
"""nm between bonded atoms of an MD frame, beyond which it is no protein: force fields stretch bonds but do not break
them."""
COLLAPSED_BOND = 1e-3
"""nm between bonded atoms of an MD frame, within which they lie on one another."""
FARTHEST_ATOM = 1.0
"""nm from CA to an atom of the same residue, beyond which it is split across the box; arginine reaches 0.8."""

CA_LINK = 0.38
"""CA-CA distance of residues joined by a trans peptide bond, nm."""
SHORTEST_CA_LINK = 0.27
"""Shortest CA-CA distance of bonded residues in a valid frame, nm; a cis peptide bond gives 0.29."""
LONGEST_CA_LINK = 0.42
"""Longest CA-CA distance of bonded residues in a valid frame, nm."""
CLOSEST_CA_CONTACT = 0.30
"""Shortest distance of other pairs of CA in a valid frame, nm."""


def spellings(name: str) -> tuple[str, ...]:
    """A residue name in upper case and, where it may be Amber's of a terminal residue ("NALA"), without that letter."""
    name = name.strip().upper()
    return (name, name[1:]) if len(name) == 4 and name[0] in "NC" else (name,)


def canonical_name(name: str) -> str | None:
    """Standard three-letter name of a residue name of the PDB, Amber, CHARMM, GROMACS or OPLS.

    Parameters
    ----------
    name : str
        In any case, with or without Amber's N or C for a terminal residue ("NALA").

    Returns
    -------
    str or None
        None if it is no standard amino acid, nor a protonation state or the selenium form of one.
    """
    for spelling in spellings(name):
        if spelling in HEAVY_ATOMS:
            return spelling
        if spelling in ALTERNATIVE_NAMES:
            return ALTERNATIVE_NAMES[spelling]
    return None


def atoms_moved_by_chi(residue: str, index: int) -> tuple[str, ...]:
    """Side-chain atoms that turn with a χ angle.

    Parameters
    ----------
    residue : str
        Three-letter name.
    index : int
        0 for χ1, ..., 3 for χ4.

    Returns
    -------
    tuple of str
        Every atom beyond the χ's bond, its two atoms excluded. The ring of proline is cut at N.
    """
    _, near, far, _ = CHI_ATOMS[residue][index]
    reached, frontier = {near, far}, [far]
    while frontier:
        atom = frontier.pop()
        for bond in SIDE_CHAIN_BONDS[residue]:
            if atom in bond:
                other = bond[0] if bond[1] == atom else bond[1]
                if other not in reached and other not in BACKBONE:
                    reached.add(other)
                    frontier.append(other)
    return tuple(atom for atom in HEAVY_ATOMS[residue] if atom in reached - {near, far})
