"""Ideal local geometry: where the heavy atoms of each residue type lie in its rigid groups. Constants only.

A residue is cut into rigid groups, each with axes of its own: x along the bond it turns about, its origin at the far
end of that bond, y on the side of the first atom of the torsion's quartet. In its axes a group's atoms stand as the
torsion angle 0 leaves them, so turning them by the angle about x puts them in place.

=====  ==================  =====================  ==========================================
group  what moves it       quartet                axes
=====  ==================  =====================  ==========================================
0      nothing             -                      of the residue: origin CA, x to C, y side N
1      psi                 N, CA, C, next N       of (N, CA, C): origin C
2..5   chi 1..4            `CHI_ATOMS`            of the quartet's first three atoms
=====  ==================  =====================  ==========================================

The numbers are medians over the residues of 123 prepared structures, made by ``benchmarks/derive/ideal_geometry.py``;
OXT lies as the carboxylate oxygens of Asp and Glu do. The ring of proline is cut between CD and N.
"""

from __future__ import annotations

import numpy as np

from openmm_starmd.geometry.residues import AMINO_ACIDS, BACKBONE, CHI_ATOMS, HEAVY_ATOMS, SYMMETRIC_CHI
from openmm_starmd.geometry.torsions import axes_of, frame_axes

GROUPS = 6
MAX_ATOMS = 14

# atom, group, x, y, z in nm
_TABLE = """
ALA
N 0 -0.05279 0.13617 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15249 0.00000 0.00000
O 1 0.06263 -0.10599 0.00000
CB 0 -0.05305 -0.07692 -0.12048
ARG
N 0 -0.05256 0.13633 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15249 0.00000 0.00000
O 1 0.06249 -0.10598 0.00000
CB 0 -0.05320 -0.07807 -0.12060
CG 2 0.06182 0.13878 0.00000
CD 3 0.05648 0.14135 0.00000
NE 4 0.05421 0.13565 0.00000
CZ 5 0.07541 0.10956 0.00000
NH1 5 0.02130 0.22969 0.00000
NH2 5 0.20721 0.09913 0.00000
ASN
N 0 -0.05391 0.13577 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15252 0.00000 0.00000
O 1 0.06234 -0.10604 0.00000
CB 0 -0.05351 -0.07879 -0.12010
CG 2 0.05854 0.13986 0.00000
OD1 3 0.06338 0.10551 0.00000
ND2 3 0.05937 -0.11842 0.00000
ASP
N 0 -0.05255 0.13617 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15260 0.00000 0.00000
O 1 0.06257 -0.10598 0.00000
CB 0 -0.05315 -0.07771 -0.12088
CG 2 0.05944 0.13975 0.00000
OD1 3 0.06050 0.10937 0.00000
OD2 3 0.05887 -0.11003 0.00000
CYS
N 0 -0.05113 0.13686 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15228 0.00000 0.00000
O 1 0.06222 -0.10605 0.00000
CB 0 -0.05270 -0.07661 -0.12130
SG 2 0.07302 0.16558 0.00000
GLN
N 0 -0.05214 0.13630 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15247 0.00000 0.00000
O 1 0.06255 -0.10610 0.00000
CB 0 -0.05326 -0.07771 -0.12072
CG 2 0.06168 0.13894 0.00000
CD 3 0.05841 0.14002 0.00000
OE1 4 0.06349 0.10557 0.00000
NE2 4 0.05933 -0.11867 0.00000
GLU
N 0 -0.05263 0.13630 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15263 0.00000 0.00000
O 1 0.06249 -0.10602 0.00000
CB 0 -0.05268 -0.07754 -0.12111
CG 2 0.06200 0.13896 0.00000
CD 3 0.05950 0.14010 0.00000
OE1 4 0.06002 0.10968 0.00000
OE2 4 0.05937 -0.10992 0.00000
GLY
N 0 -0.05688 0.13388 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15172 0.00000 0.00000
O 1 0.06250 -0.10609 0.00000
HIS
N 0 -0.05251 0.13626 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15253 0.00000 0.00000
O 1 0.06227 -0.10611 0.00000
CB 0 -0.05361 -0.07747 -0.12070
CG 2 0.05996 0.13705 0.00000
ND1 3 0.07441 0.11602 0.00000
CD2 3 0.08892 -0.10206 0.00000
CE1 3 0.20299 0.08536 0.00000
NE2 3 0.21433 -0.04633 0.00000
ILE
N 0 -0.04956 0.13746 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15247 0.00000 0.00000
O 1 0.06267 -0.10604 0.00000
CB 0 -0.05459 -0.07874 -0.12094
CG1 2 0.05378 0.14331 0.00000
CG2 2 0.05386 -0.07795 -0.11943
CD1 3 0.06106 0.13863 0.00000
LEU
N 0 -0.05175 0.13644 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15244 0.00000 0.00000
O 1 0.06250 -0.10604 0.00000
CB 0 -0.05260 -0.07696 -0.12134
CG 2 0.06750 0.13727 0.00000
CD1 3 0.05313 0.14252 0.00000
CD2 3 0.05349 -0.07684 0.12012
LYS
N 0 -0.05262 0.13654 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15246 0.00000 0.00000
O 1 0.06247 -0.10600 0.00000
CB 0 -0.05311 -0.07777 -0.12086
CG 2 0.06200 0.13924 0.00000
CD 3 0.05609 0.14167 0.00000
CE 4 0.05581 0.14168 0.00000
NZ 5 0.05519 0.13811 0.00000
MET
N 0 -0.05245 0.13617 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15254 0.00000 0.00000
O 1 0.06281 -0.10587 0.00000
CB 0 -0.05264 -0.07774 -0.12106
CG 2 0.06112 0.13912 0.00000
SD 3 0.06976 0.16656 0.00000
CE 4 0.03244 0.17616 0.00000
PHE
N 0 -0.05192 0.13658 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15245 0.00000 0.00000
O 1 0.06257 -0.10600 0.00000
CB 0 -0.05273 -0.07718 -0.12119
CG 2 0.06084 0.13756 0.00000
CD1 3 0.07061 0.11935 0.00000
CD2 3 0.07054 -0.11926 0.00000
CE1 3 0.20967 0.11958 0.00000
CE2 3 0.20936 -0.11968 0.00000
CZ 3 0.27846 0.00000 0.00000
PRO
N 0 -0.05639 0.13509 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15252 0.00000 0.00000
O 1 0.06230 -0.10619 0.00000
CB 0 -0.05543 -0.06160 -0.12884
CG 2 0.03704 0.14511 0.00000
CD 3 0.03915 0.14556 0.00000
SER
N 0 -0.05248 0.13639 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15245 0.00000 0.00000
O 1 0.06267 -0.10600 0.00000
CB 0 -0.05234 -0.07746 -0.12118
OG 2 0.05076 0.13230 0.00000
THR
N 0 -0.05197 0.13650 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15250 0.00000 0.00000
O 1 0.06250 -0.10604 0.00000
CB 0 -0.05239 -0.07822 -0.12155
OG1 2 0.04753 0.13503 0.00000
CG2 2 0.05505 -0.07224 -0.12217
TRP
N 0 -0.05090 0.13646 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15228 0.00000 0.00000
O 1 0.06291 -0.10596 0.00000
CB 0 -0.05246 -0.07711 -0.12155
CG 2 0.06139 0.13683 0.00000
CD1 3 0.08185 0.10925 0.00000
CD2 3 0.08574 -0.11454 0.00000
NE1 3 0.21329 0.06981 0.00000
CE2 3 0.21850 -0.06716 0.00000
CE3 3 0.06343 -0.25258 0.00000
CZ2 3 0.32826 -0.15271 0.00000
CZ3 3 0.17295 -0.33758 0.00000
CH2 3 0.30343 -0.28746 0.00000
TYR
N 0 -0.05232 0.13637 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15230 0.00000 0.00000
O 1 0.06269 -0.10590 0.00000
CB 0 -0.05266 -0.07767 -0.12101
CG 2 0.06174 0.13806 0.00000
CD1 3 0.07134 0.11920 0.00000
CD2 3 0.07134 -0.11923 0.00000
CE1 3 0.20977 0.11983 0.00000
CE2 3 0.20976 -0.11972 0.00000
CZ 3 0.27849 0.00000 0.00000
OH 3 0.41576 0.00000 0.00000
VAL
N 0 -0.04967 0.13765 0.00000
CA 0 0.00000 0.00000 0.00000
C 0 0.15250 0.00000 0.00000
O 1 0.06269 -0.10604 0.00000
CB 0 -0.05429 -0.07871 -0.12086
CG1 2 0.05419 0.14231 0.00000
CG2 2 0.05344 -0.07723 0.11972
"""

OXT = np.array([0.05950, 0.10980, 0.0])
"""Terminal oxygen in the axes of group 1, nm; for every residue type."""
FREE_PSI = np.deg2rad(135.0)
"""ψ of a residue without a next one, where its input has no O to tell it."""
PROLINE_N_CD, PROLINE_CG_CD = 0.1473, 0.1507
"""Bonds that close the ring of proline, nm; N-CD from Engh and Huber 2001."""


def _parse(table: str) -> dict[str, dict[str, tuple[int, np.ndarray]]]:
    parsed: dict[str, dict[str, tuple[int, np.ndarray]]] = {}
    for line in table.strip().splitlines():
        name, *numbers = line.split()
        if not numbers:
            residue = parsed.setdefault(name, {})
        else:
            residue[name] = int(numbers[0]), np.array([float(number) for number in numbers[1:]])
    return parsed


IDEAL = _parse(_TABLE)
"""Group and position [3] (nm) of each heavy atom, by residue and atom name."""


def _arrays() -> tuple[np.ndarray, ...]:
    """The arrays below, one row per residue type; an unknown residue has the backbone of alanine."""
    types = len(AMINO_ACIDS) + 1
    names = np.full((types, MAX_ATOMS), "", dtype="<U4")
    group = np.zeros((types, MAX_ATOMS), dtype=np.int64)
    local = np.zeros((types, MAX_ATOMS, 3))
    rotation = np.tile(np.eye(3), (types, GROUPS, 1, 1))
    origin = np.zeros((types, GROUPS, 3))
    for i in range(types):
        residue = AMINO_ACIDS[i] if i < len(AMINO_ACIDS) else "ALA"
        atoms = IDEAL[residue]
        for k, name in enumerate(HEAVY_ATOMS[residue] if i < len(AMINO_ACIDS) else BACKBONE):
            names[i, k] = name
            group[i, k], local[i, k] = atoms[name]
        quartets = (("N", "CA", "C"), *(quartet[:3] for quartet in CHI_ATOMS[residue] if i < len(AMINO_ACIDS)))
        for k, (first, near, far) in enumerate(quartets, start=1):
            place = {name: atoms[name][1] for name in (first, near, far)}
            if k > 2:
                # the two atoms before are those that the group of the torsion before turns about
                place[first], place[near] = np.array([-1.0, 0.0, 0.0]), np.zeros(3)
            rotation[i, k] = frame_axes(place[far] - place[near], place[first] - place[near])
            origin[i, k] = place[far]
    return names, group, local, rotation, origin


ATOM_NAMES, ATOM_GROUP, ATOM_LOCAL, GROUP_ROTATION, GROUP_ORIGIN = _arrays()
"""By residue type (row, unknown last) and atom in the order of `HEAVY_ATOMS` (column, "" where there is none):
names [21, 14], group [21, 14], position in the group's axes [21, 14, 3] (nm); and by residue type and group, the
group's axes (columns) and origin in those of its parent, every torsion 0: [21, 6, 3, 3], [21, 6, 3] (nm). With a
torsion t the axes are those of the parent @ rotation @ (turn by t about x).
"""
ATOM_MASK = ATOM_NAMES != ""
GROUP_PARENT = (0, 0, 0, 2, 3, 4)
CHI_MASK = np.array([[k < len(CHI_ATOMS.get(name, ())) for k in range(4)] for name in (*AMINO_ACIDS, "")])
"""Which χ angles a residue type has, [21, 4]."""
CHI_SYMMETRIC = np.array([[(name, k) in SYMMETRIC_CHI for k in range(4)] for name in (*AMINO_ACIDS, "")])
"""Which χ angles are :data:`~openmm_starmd.geometry.residues.SYMMETRIC_CHI`, [21, 4]."""


def ideal_atoms(types: np.ndarray, backbone: np.ndarray, torsions: np.ndarray) -> np.ndarray:
    """Heavy atoms of residues of ideal geometry.

    Parameters
    ----------
    types : np.ndarray [N]
        0 to 19 in the order of AMINO_ACIDS, 20 for unknown.
    backbone : np.ndarray [..., N, 3, 3]
        N, CA, C, nm; only the axes and CA are read.
    torsions : np.ndarray [..., N, 5]
        ψ and χ1..4, radians.

    Returns
    -------
    np.ndarray [..., N, 14, 3]
        nm, in the order of `ATOM_NAMES`; atoms that a type lacks lie on the origin of the residue.
    """
    frames = np.broadcast_shapes(backbone.shape[:-3], torsions.shape[:-2])
    backbone = np.broadcast_to(backbone, (*frames, *backbone.shape[-3:]))
    torsions = np.broadcast_to(torsions, (*frames, *torsions.shape[-2:]))
    axes, origins = [axes_of(backbone)], [backbone[..., 1, :]]
    for group in range(1, GROUPS):
        parent, angle = GROUP_PARENT[group], torsions[..., group - 1]
        zero, one = np.zeros_like(angle), np.ones_like(angle)
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], -1).reshape(*angle.shape, 3, 3)
        origins.append(origins[parent] + (axes[parent] @ GROUP_ORIGIN[types, group][..., None])[..., 0])
        axes.append(axes[parent] @ GROUP_ROTATION[types, group] @ turn)
    chosen = ATOM_GROUP[types]
    rows = np.arange(len(types))[:, None]
    all_axes, all_origins = np.stack(axes, -3), np.stack(origins, -2)
    return (
        all_origins[..., rows, chosen, :] + (all_axes[..., rows, chosen, :, :] @ ATOM_LOCAL[types][..., None])[..., 0]
    )
