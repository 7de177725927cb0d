"""What is to be said about starting classical MD from a frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Entry:
    """How a classical simulation was started from a frame.

    Attributes
    ----------
    energy_placed, energy_minimized : float
        Potential energy before and after minimisation, kJ/mol.
    moved : float
        RMSD of N, CA and C by which minimisation moved the backbone, after superposition, nm.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C after minimisation, before any dynamics, nm.
    displaced : int
        Waters and ions that made way for the protein.
    seconds : dict of str to float
        Spent on ``place``, ``minimize`` and ``equilibrate``.
    """

    energy_placed: float
    energy_minimized: float
    moved: float
    backbone: np.ndarray = field(repr=False)
    displaced: int
    seconds: dict[str, float] = field(repr=False)
