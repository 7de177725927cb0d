"""Backbones from CA traces: which way each peptide plane faces, from its CA neighbours and a reference structure.

A CA trace alone does not say where N and C are: the peptide between two CA may turn about the line that joins them.
Its turn is estimated from the four CA around it, by a smooth function fitted to structures, and the error that this
function makes on the reference structure is carried along, the less the more the four CA have moved. Over the MD of 63
proteins (1200 frames) the turn is off by 21 degrees (rms; 11 in the median; the fit alone, and the reference's own
turns, 25), which leaves N and C off by 0.2 Å, and by 0.7 Å at the ends. Everything else of a peptide (bond lengths,
angles, cis or trans) is the reference's. Angles N-CA-C suffer: their standard deviation is 6 degrees, with outliers of
tens, so minimise before any use that feels them.
"""

from __future__ import annotations

import numpy as np

from openmm_starmd.geometry.torsions import frame_axes, rotate_about

CARRIED = 0.7
"""Share of the fit's error on the reference that is carried to a frame with the same four CA."""
MEMORY = 1.2
"""Radians; how far the four CA may move until the carried error has fallen to 1/e."""
_CENTER, _WIDTH = 1.87, 0.35

# Fitted by benchmarks/derive/ca_trace_fit.py: rows are 1, cos g, sin g, cos 2g, sin 2g (g is the virtual torsion of the
# four CA) by 1, a, b, aa, bb, ab (a and b are the two virtual angles, scaled); columns the cosine and sine of the turn.
_INNER = np.array([
    [-0.2075, -0.2253],
    [0.6631, -0.2298],
    [-0.0251, 0.0280],
    [-0.0337, 0.0675],
    [0.0312, 0.0038],
    [-0.0038, 0.0342],
    [0.0700, 0.4702],
    [0.0220, 0.0071],
    [-0.1046, 0.1458],
    [0.0225, -0.1410],
    [-0.0532, 0.0115],
    [0.0410, -0.0012],
    [-0.3800, 0.4652],
    [-0.1970, 0.0970],
    [-0.0220, -0.0249],
    [0.2509, -0.1914],
    [0.0128, -0.1934],
    [0.0120, -0.0073],
    [0.0985, -0.1440],
    [-0.0890, -0.0677],
    [-0.0362, 0.1029],
    [-0.0196, 0.0502],
    [-0.0041, -0.0190],
    [0.0245, 0.0367],
    [-0.0026, 0.1572],
    [-0.0150, -0.1663],
    [-0.0217, -0.1162],
    [0.0171, -0.0526],
    [0.0141, 0.0162],
    [-0.0108, 0.1263],
])  # fmt: skip
# The same for the first peptide of a stretch (1, b, bb), and for the last one (1, a, aa)
_FIRST = np.array([
    [0.2507, 0.7995],
    [-0.0846, 0.0140],
    [-0.1964, -0.0275],
])  # fmt: skip
_LAST = np.array([
    [-0.1076, -0.3652],
    [0.6991, -0.7654],
    [-0.0761, 0.3798],
])  # fmt: skip


def backbone_from_trace(trace: np.ndarray, reference: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """N, CA and C of each residue from CA alone.

    Parameters
    ----------
    trace : np.ndarray [..., N, 3]
        CA, nm; they come back to the bit.
    reference : np.ndarray [N, 3, 3]
        N, CA, C of a structure of the same protein, nm.
    bonded : np.ndarray [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1.

    Returns
    -------
    np.ndarray [..., N, 3, 3]
        nm. The N of a stretch's first residue and the C of its last keep the reference's ψ and φ; a residue without
        bonded neighbours keeps the reference's orientation.
    """
    turns = _turns(trace, reference, bonded)
    made = reference - reference[:, 1:2] + trace[..., None, :]
    for i in np.flatnonzero(bonded).tolist():
        own = _plane(reference[:, 1], i, bonded, reference[i, 2] - reference[i, 1])
        angle = _angle(own, reference[i, 2] - reference[i, 1])
        local = np.stack([reference[i, 2] - reference[i, 1], reference[i + 1, 0] - reference[i + 1, 1]])
        local = rotate_about(local, np.zeros(3), own[:, 0], np.full(2, -angle)) @ own
        axes = _plane(trace, i, bonded, made[..., i, 2, :] - made[..., i, 1, :])
        arms = local @ np.swapaxes(axes, -1, -2)
        turn = np.broadcast_to(turns[i], trace.shape[:-2])[..., None]
        arms = rotate_about(arms, np.zeros(3), axes[..., None, :, 0], np.repeat(turn, 2, -1))
        made[..., i, 2, :] = trace[..., i, :] + arms[..., 0, :]
        made[..., i + 1, 0, :] = trace[..., i + 1, :] + arms[..., 1, :]
    return _with_ends(made, reference, bonded)


def inner_features(trace: np.ndarray) -> np.ndarray:
    """What the turn of a peptide with CA neighbours on both sides is fitted to.

    Parameters
    ----------
    trace : np.ndarray [..., 4, 3]
        CA of residues i-1 to i+2, nm.

    Returns
    -------
    np.ndarray [..., 30]
    """
    shape = _shape(trace)
    g, a, b = np.moveaxis(shape, -1, 0)
    a, b = (a - _CENTER) / _WIDTH, (b - _CENTER) / _WIDTH
    waves = [np.ones_like(g), np.cos(g), np.sin(g), np.cos(2 * g), np.sin(2 * g)]
    powers = [np.ones_like(g), a, b, a * a, b * b, a * b]
    return np.stack([wave * power for wave in waves for power in powers], -1)


def end_features(trace: np.ndarray) -> np.ndarray:
    """The same, [..., 3], for a peptide with a neighbour on one side; `trace` [..., 3, 3] begins or ends with it."""
    angle = (_bend(*np.moveaxis(trace, -2, 0)) - _CENTER) / _WIDTH
    return np.stack([np.ones_like(angle), angle, angle * angle], -1)


def peptide_turn(trace: np.ndarray, carbon: np.ndarray, i: int, bonded: np.ndarray) -> np.ndarray:
    """Angle [...], radians, of C of residue i (`carbon`, [..., 3]) about CA i to CA i + 1.

    Zero where it lies on the side of CA i - 1; of CA i + 2 where there is none.
    """
    arm = carbon - trace[..., i, :]
    return _angle(_plane(trace, i, bonded, arm), arm)


def _turns(trace: np.ndarray, reference: np.ndarray, bonded: np.ndarray) -> dict[int, np.ndarray]:
    """Turn of each bonded peptide, [...] each."""
    turns = {}
    for i in np.flatnonzero(bonded).tolist():
        before, behind = _neighbours(i, bonded)
        own = peptide_turn(reference[:, 1], reference[i, 2], i, bonded)
        if not before and not behind:
            turns[i] = own
            continue
        four = slice(i - before, i + 2 + behind)
        there, home = trace[..., four, :], reference[four, 1]
        table = _INNER if before and behind else _LAST if before else _FIRST
        features = inner_features if before and behind else end_features
        error = _wrapped(own - _direction(features(home) @ table))
        moved = _wrapped(_shape(there) - _shape(home))
        # bends count double: they are stiffer than the torsion
        distance = (moved**2 * np.array([1.0, 4.0, 4.0])[-moved.shape[-1] :]).sum(-1)
        share = CARRIED if before and behind else 1.0
        turns[i] = _direction(features(there) @ table) + share * np.exp(-distance / MEMORY**2) * error
    return turns


def _with_ends(made: np.ndarray, reference: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """The N and C that no peptide plane holds, as the reference has them seen from the residue's one peptide."""
    before, behind = np.append(False, bonded), np.append(bonded, False)
    for i in range(len(reference)):
        if before[i] == behind[i]:
            continue
        # N of a first residue is seen from C and the next N; C of a last one from N and the C before
        end, near, far = (0, 2, i + 1) if behind[i] else (2, 0, i - 1)
        axes, own = (
            frame_axes(xyz[..., i, near, :] - xyz[..., i, 1, :], xyz[..., far, 2 - near, :] - xyz[..., i, 1, :])
            for xyz in (made, reference)
        )
        arm = own.T @ (reference[i, end] - reference[i, 1])
        made[..., i, end, :] = made[..., i, 1, :] + (axes @ arm[:, None])[..., 0]
    return made


def _neighbours(i: int, bonded: np.ndarray) -> tuple[bool, bool]:
    """Whether peptide i has bonded CA neighbours before and behind."""
    return bool(i > 0 and bonded[i - 1]), bool(i + 1 < len(bonded) and bonded[i + 1])


def _plane(trace: np.ndarray, i: int, bonded: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Axes [..., 3, 3]: x from CA i to the next, y towards a CA neighbour, or `otherwise`."""
    before, behind = _neighbours(i, bonded)
    along = trace[..., i + 1, :] - trace[..., i, :]
    if before:
        aside = trace[..., i - 1, :] - trace[..., i, :]
    elif behind:
        aside = trace[..., i + 2, :] - trace[..., i + 1, :]
    else:
        aside = otherwise
    return frame_axes(along, aside)


def _angle(axes: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """Angle of `arm` about the x axis, from the y axis."""
    return np.arctan2(np.sum(axes[..., 2] * arm, -1), np.sum(axes[..., 1] * arm, -1))


def _shape(trace: np.ndarray) -> np.ndarray:
    """Virtual torsion and bends of four CA, [..., 3]; the bend of three, [..., 1]."""
    points = np.moveaxis(trace, -2, 0)
    if len(points) == 3:
        return _bend(*points)[..., None]
    a, b, c, d = points
    axes = frame_axes(c - b, a - b)
    return np.stack([_angle(axes, d - c), _bend(a, b, c), _bend(b, c, d)], -1)


def _bend(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    first, second = a - b, c - b
    length = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.arccos(np.clip(np.sum(first * second, -1) / np.maximum(length, 1e-12), -1.0, 1.0))


def _direction(vector: np.ndarray) -> np.ndarray:
    return np.arctan2(vector[..., 1], vector[..., 0])


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return np.arctan2(np.sin(angle), np.cos(angle))
