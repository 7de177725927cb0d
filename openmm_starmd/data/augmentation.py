"""Reference structures deformed along soft modes, so that a network does not learn frames to lie around the reference.

In training the reference is the trajectory's own start, and few frames are far from it; in a rollout a protein leaves
it. A network that has only seen near references goes back to them too fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_starmd.analysis.network_models import neighbourhoods, smooth_hessian, stiff_modes
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.superposition import superposition
from openmm_starmd.geometry.torsions import dihedral
from openmm_starmd.model.features import Features
from openmm_starmd.randomness import keyed_generator

Array = NDArray[np.float64]

SOFT = 0.25
"""Share of all modes, the softest, that structures are deformed along: eight tenths and more of the motion of MD."""
SWEEPS = 30
"""Corrections of the distances along the chain after a deformation: they are then within 0.02 nm of what they were."""
REACH = 2
"""Residues to each side that a residue turns with."""
KEPT = 256
"""Structures whose modes are kept in memory."""


@dataclass(frozen=True)
class SoftModes:
    """The soft modes of a structure, with the sizes of their thermal motion.

    Attributes
    ----------
    vectors : ndarray [N, 3, M]
        Orthonormal displacements.
    amplitudes : ndarray [M]
        Root of each mode's mean square. Together they move residues by a root mean square of 1.
    """

    vectors: Array
    amplitudes: Array


def soft_modes(alphas: NDArray[np.floating], bonded: NDArray[np.bool_]) -> SoftModes:
    """The softest modes of the elastic network of a structure
    (:func:`openmm_starmd.analysis.network_models.smooth_hessian`).

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Cα positions, nm.
    bonded : ndarray [N - 1], bool

    Returns
    -------
    SoftModes
        None of them for fewer than three residues. A mode's mean square is kT over its stiffness.
    """
    stiffness, vectors = stiff_modes(smooth_hessian(alphas, bonded), 6)
    count = -int(-SOFT * len(stiffness) // 1)
    amplitudes = stiffness[:count] ** -0.5
    size = np.sqrt((amplitudes**2).sum() / len(alphas))
    return SoftModes(vectors[:, :count].reshape(len(alphas), 3, count), amplitudes / max(size, 1e-300))


def restored(alphas: Array, before: Array, bonded: NDArray[np.bool_]) -> Array:
    """Positions corrected until first and second neighbours along a chain are as far apart as they were.

    A displacement along straight lines stretches what turns. Every sweep moves each residue by the mean of what its
    distances ask for, as SHAKE does for one distance at a time (Ryckaert, Ciccotti and Berendsen 1977, J. Comput. Phys.
    23, 327).

    Parameters
    ----------
    alphas, before : ndarray [N, 3]
        Cα positions, nm: displaced, and undisplaced.
    bonded : ndarray [N - 1], bool

    Returns
    -------
    ndarray [N, 3]
    """
    alphas = alphas.copy()
    ties = [(apart, tied.astype(float)) for apart, tied in ((1, bonded), (2, bonded[:-1] & bonded[1:]))]
    rest = [np.linalg.norm(before[apart:] - before[:-apart], axis=-1) for apart, _ in ties]
    count = np.zeros(len(alphas))
    for apart, tied in ties:
        count[:-apart] += tied
        count[apart:] += tied
    # 1.6 of the mean correction: converges about twice as fast as the mean itself
    share = (1.6 / np.maximum(count, 1))[:, None]
    for _ in range(SWEEPS):
        move = np.zeros_like(alphas)
        for (apart, tied), length in zip(ties, rest, strict=True):
            line = alphas[apart:] - alphas[:-apart]
            stretch = 1 - length / np.maximum(np.linalg.norm(line, axis=-1), 1e-9)
            shift = (0.5 * tied * stretch)[:, None] * line
            move[:-apart] += shift
            move[apart:] -= shift
        alphas += share * move
    return alphas


def deformed(features: Features, modes: SoftModes, displacement: Array) -> Features:
    """The same protein with a deformed reference structure.

    Parameters
    ----------
    features : Features
        N residues.
    modes : SoftModes
        Of the reference structure.
    displacement : ndarray [M]
        Along each mode, nm.

    Returns
    -------
    Features
        Residues turn as their surroundings do (:func:`neighbourhoods`, superposed on where they were). ψ is that of the
        deformed backbone, side chains keep their torsions.
    """
    reference = features.reference.to("cpu", torch.float64)
    before, bonded = reference.translations.numpy(), features.bonded.cpu().numpy()
    after = restored(before + modes.vectors @ displacement, before, bonded)
    index = neighbourhoods(before, bonded, REACH)
    turn, _ = superposition(torch.from_numpy(before[index]), torch.from_numpy(after[index]))
    rigids = Rigids(turn @ reference.rotations, torch.from_numpy(after))
    torsions = features.torsions
    if torsions is not None:
        n, alpha, c = backbone_from_rigids(rigids).numpy().swapaxes(0, 1)
        psi = torch.from_numpy(dihedral(n[:-1], alpha[:-1], c[:-1], n[1:]))
        known = features.bonded & (torsions[:-1, 0] != 0).any(-1)
        torsions = torsions.clone()
        new = torch.stack([psi.sin(), psi.cos()], dim=-1).to(torsions)
        torsions[:-1, 0] = torch.where(known[:, None], new, torsions[:-1, 0])
    return features.with_reference(rigids.to(features.reference.translations), torsions)


class ReferenceDeformer:
    """Deforms reference structures, each by an amount that follows from a key alone.

    Parameters
    ----------
    largest : float
        Root mean square displacement of Cα at the full amplitude, nm. Amplitudes are uniform between none and this one.

    Notes
    -----
    Modes of the structures seen last are kept: they are an eigenvalue problem of 3N.
    """

    def __init__(self, largest: float) -> None:
        self.largest = largest
        self._modes: dict[bytes, SoftModes] = {}

    def __call__(self, features: Features, *key: int) -> Features:
        """`features` with a deformed reference; unchanged for fewer than three residues."""
        modes = self._modes_of(features)
        generator = keyed_generator("reference deformation", *key)
        amplitude = self.largest * torch.rand(1, generator=generator, dtype=torch.float64).numpy()
        normal = torch.randn(len(modes.amplitudes), generator=generator, dtype=torch.float64).numpy()
        if not len(normal):
            return features
        return deformed(features, modes, amplitude * modes.amplitudes * normal)

    def _modes_of(self, features: Features) -> SoftModes:
        alphas, bonded = features.reference.translations.cpu().double().numpy(), features.bonded.cpu().numpy()
        content = alphas.tobytes() + bonded.tobytes()
        if content not in self._modes:
            if len(self._modes) >= KEPT:
                self._modes.pop(next(iter(self._modes)))
            self._modes[content] = soft_modes(alphas, bonded)
        return self._modes[content]
