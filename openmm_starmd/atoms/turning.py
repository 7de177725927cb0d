"""Torsions set to given angles with all that follows along the chain turned: the rigids move, bonds and angles stay."""

from __future__ import annotations

import numpy as np

from openmm_starmd.protein.protein import Protein


def set_torsions(
    protein: Protein, torsions: np.ndarray, atoms: str = "heavy", *, backbone: np.ndarray | None = None
) -> np.ndarray:
    """Positions of a frame whose torsions are set, as one turns bonds in a molecular editor.

    φ, ψ and ω turn everything behind their bond, up to the end of the chain or a break in it; χ turns the side chain.
    All bond lengths and angles stay, but for the ring of proline (see :class:`openmm_starmd.protein.backmap.BackMap`).
    :meth:`Protein.frame_positions` is the other question: there the rigids are given, and φ, ψ and ω with them.

    Parameters
    ----------
    protein : Protein
    torsions : np.ndarray [N, 7] or [F, N, 7]
        φ, ψ, ω, χ1..4, radians. NaN leaves an angle; angles that are masked in :attr:`Protein.torsion_mask` are left
        too, but for the ψ of a residue without a next one, which turns its O.
    atoms : {"ca", "backbone", "heavy"}
    backbone : np.ndarray [N, 3, 3] or [F, N, 3, 3], optional
        N, CA, C to start from, nm; the input's by default.

    Returns
    -------
    np.ndarray [atoms of ``protein.frame_topology(atoms)``, 3] or [F, atoms, 3]
        nm.

    Raises
    ------
    ValueError
        If the shapes do not fit, or φ of a proline is changed, which its ring holds.
    """
    torsions = np.asarray(torsions, dtype=np.float64)
    if torsions.shape[-2:] != (protein.length, 7) or torsions.ndim > 3:
        raise ValueError(f"torsions must have the shape ({protein.length}, 7), or that per frame, not {torsions.shape}")
    mapping = protein.backmap("backbone")
    start = protein.backbone if backbone is None else np.asarray(backbone, dtype=np.float64)
    now = mapping.measure(mapping.place(start))
    change = np.nan_to_num(torsions[..., :3] - now[..., :3])
    change[..., ~protein.torsion_mask[:, :3]] = 0.0
    held = np.array([letter == "P" for letter in protein.sequence.replace("/", "")])
    for i in np.flatnonzero(held):
        if np.abs(np.sin(change[..., i, 0] / 2)).max() > 1e-4:
            raise ValueError(
                f"{protein.residue_label(int(i))}: the ring holds φ; give NaN, or its own angle, for prolines"
            )
    change[..., held, 0] = 0.0
    return protein.frame_positions(turned(start, protein.bonded, change), atoms, torsions)


def turned(backbone: np.ndarray, bonded: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Backbones with φ, ψ and ω changed.

    Parameters
    ----------
    backbone : np.ndarray [..., N, 3, 3]
        N, CA, C, nm.
    bonded : np.ndarray [N - 1], bool
    change : np.ndarray [..., N, 3]
        What is added to φ, ψ and ω of each residue, radians.

    Returns
    -------
    np.ndarray [..., N, 3, 3]
        nm; the first residue's N and CA, and of each piece behind a break, stay.
    """
    frames = np.broadcast_shapes(backbone.shape[:-3], change.shape[:-2])
    moved = np.empty((*frames, *backbone.shape[-3:]))
    turn, shift = np.eye(3), np.zeros(3)
    for i in range(backbone.shape[-3]):
        if i == 0 or not bonded[i - 1]:
            turn, shift = np.broadcast_to(np.eye(3), (*frames, 3, 3)), np.zeros((*frames, 3))
        n, ca, c = (backbone[..., i, atom, :] for atom in range(3))
        moved[..., i, 0, :], moved[..., i, 1, :] = _moved(turn, shift, n), _moved(turn, shift, ca)
        turn, shift = _joint(turn, shift, n, ca, change[..., i, 0])
        moved[..., i, 2, :] = _moved(turn, shift, c)
        if i + 1 < backbone.shape[-3]:
            turn, shift = _joint(turn, shift, ca, c, change[..., i, 1])
            turn, shift = _joint(turn, shift, c, backbone[..., i + 1, 0, :], change[..., i, 2])
    return moved


def _moved(turn: np.ndarray, shift: np.ndarray, point: np.ndarray) -> np.ndarray:
    return (turn @ point[..., None])[..., 0] + shift


def _joint(
    turn: np.ndarray, shift: np.ndarray, start: np.ndarray, end: np.ndarray, angle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The motion (`turn`, `shift`) of all beyond the bond start-end, after a turn about that bond."""
    x, y, z = np.moveaxis((end - start) / np.linalg.norm(end - start, axis=-1, keepdims=True), -1, 0)
    zero = np.zeros_like(x)
    hat = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    sine, cosine = np.sin(angle)[..., None, None], np.cos(angle)[..., None, None]
    about = np.eye(3) + sine * hat + (1 - cosine) * (hat @ hat)
    after = turn @ about
    return after, _moved(turn, shift, start) - (after @ start[..., None])[..., 0]
