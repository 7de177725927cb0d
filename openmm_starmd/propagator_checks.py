"""Telling the author of a propagator what is wrong with it, before a simulation does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_starmd.propagators import (
    Array,
    Present,
    Propagator,
    Proposal,
    check_numbers,
    find_propagator,
    identity_of,
    memory_of,
)

if TYPE_CHECKING:
    from openmm_starmd.protein.protein import Protein


def check_propagator(
    make: str | Callable[..., Propagator],
    protein: Protein,
    *,
    stride: float = 10.0,
    atoms: str = "backbone",
    seed: int = 1,
    frames: int = 4,
) -> None:
    """Try a propagator on a protein, and say everything that is wrong with it.

    Looked at are the shapes and numbers of what it proposes, whether positions and backbone tell the same, whether the
    same seed gives the same frames, whether a frame asked for again (as after Ctrl-C) is the same, and whether a new
    propagator that is shown history and saved state goes on as the old one (an exact restart).

    Parameters
    ----------
    make : str or callable
        As ``StarMDSimulation(..., propagator=)`` takes it; no object, since several are made.
    protein : Protein
    stride : float
        ps.
    atoms : {"ca", "backbone", "heavy"}
    seed : int
    frames : int
        How many to draw, at least 2.

    Raises
    ------
    ValueError
        With one line for each thing that is wrong.
    TypeError
        If it is no propagator at all.
    """
    if isinstance(make, Propagator) and not isinstance(make, type):
        raise TypeError("give what makes the propagator (its class), not one: several are made, to compare them")

    def new() -> Propagator:
        return find_propagator(make, protein, stride=stride, atoms=atoms)

    first, second = new(), new()
    wrong: list[str] = []
    identity_of(first)
    stages = [_Stage(protein, stride, atoms, memory_of(first), seed) for _ in range(2)]
    for number in range(1, frames + 1):
        proposal, saved = _propose(first, stages[0], number, wrong), first.state()
        if saved is not None and not isinstance(saved, bytes):
            wrong.append(f"state() gives a {type(saved).__name__}; it must give bytes, or None")
        if proposal is None:
            break
        if not _equal(proposal, _propose(first, stages[0], number, [])):
            wrong.append(
                f"frame {number} asked for again is another: an interrupt may come between proposal and commit. "
                "Draw random numbers from the key (present.seed, present.number), and change nothing that a second "
                "call would read (present.token tells whether the frame shown is the one proposed)"
            )
        if not _equal(proposal, _propose(second, stages[1], number, [])):
            wrong.append(f"frame {number} of a second propagator with the same seed is another: what else is random?")
        if wrong:
            break
        stages[0].commit(proposal)
        stages[1].commit(proposal)
        # a checkpoint holds what state() gives once the frame is committed
        saved = first.state()
        following = _propose(first, stages[0], number + 1, [])
        if not _equal(following, _propose(new(), stages[0], number + 1, [], saved)):
            wrong.append(
                f"after frame {number} a new propagator goes on otherwise than the old one: no restart would be exact. "
                "What it remembers must follow from present.kept(), or be in state(), and be read from present.state"
            )
            break
    if wrong:
        raise ValueError(f"{type(first).__name__} is no sound propagator:\n" + "\n".join(f"- {line}" for line in wrong))


_DRAWS_BEFORE = 3  # so that who takes the number of draws for the number of the frame is found out


class _Stage:
    """What an integrator does, on arrays: shows the present frame, and takes the next."""

    def __init__(self, protein: Protein, stride: float, atoms: str, memory: int, seed: int) -> None:
        self.protein, self.atoms = protein, atoms
        self._stride, self._memory, self._seed = stride, memory, seed
        self.positions = protein.frame_positions(protein.backbone, atoms)
        self._frames = {0: protein.backbone.copy()}
        self._count = self._token = 0

    def present(self, state: bytes | None = None) -> Present:
        return Present(
            number=_DRAWS_BEFORE + self._count,
            count=self._count,
            time=self._stride * self._count,
            token=self._token,
            seed=self._seed,
            positions=self.positions.copy(),
            state=state,
            _backbone=self._frames[self._count].copy,
            _torsions=self._torsions,
            _kept=self._kept,
        )

    def commit(self, proposal: Proposal) -> None:
        self._token = self.present().token_after(proposal)
        self._count += 1
        self.positions = np.array(proposal.positions, dtype=np.float64)
        self._frames[self._count] = np.array(proposal.backbone, dtype=np.float64)

    def _torsions(self) -> Array | None:
        return self.protein.backmap("heavy").measure(self.positions) if self.atoms == "heavy" else None

    def _kept(self, numbers: Sequence[int]) -> dict[int, Array]:
        check_numbers(numbers, self._count, self._memory)
        return {number: self._frames[number].copy() for number in numbers}


def _propose(
    propagator: Propagator, stage: _Stage, number: int, wrong: list[str], state: bytes | None = None
) -> Proposal | None:
    """The next frame, with what is wrong about it added to a list; None if it cannot be gone on from."""
    present = stage.present(state)
    shown = [present.positions.copy(), present.backbone.copy()]
    try:
        proposal: Any = propagator.next_frame(present)
    except Exception as error:
        wrong.append(f"frame {number}: next_frame() raises {type(error).__name__}: {error}")
        return None
    if not all(hasattr(proposal, name) for name in ("positions", "backbone", "start")):
        wrong.append(f"next_frame() gives a {type(proposal).__name__}; it must give a Proposal(positions, backbone)")
        return None
    if not all(np.array_equal(a, b) for a, b in zip(shown, (present.positions, present.backbone), strict=True)):
        wrong.append("next_frame() changes the arrays it is shown: work on copies")
    sound = True
    for name, shape in (("positions", stage.positions.shape), ("backbone", stage.protein.backbone.shape)):
        values = np.asarray(getattr(proposal, name), dtype=np.float64)
        if values.shape != shape:
            wrong.append(f"frame {number}: {name} has the shape {values.shape}; expected {shape}")
            sound = False
        elif not np.isfinite(values).all():
            wrong.append(f"frame {number}: {name} is not finite")
            sound = False
    if not sound:
        return None
    told = stage.protein.backbone_from_frame(proposal.positions, stage.atoms)
    told = np.asarray(proposal.positions)[:, None] if told is None else told  # CA frames hold no N and C
    expected = np.asarray(proposal.backbone)[:, 1:2] if stage.atoms == "ca" else proposal.backbone
    if not np.array_equal(told, expected):
        apart = float(np.abs(told - expected).max())
        wrong.append(
            f"frame {number}: positions and backbone differ by up to {apart:.2g} nm in the same atoms: take positions "
            "from protein.frame_positions(backbone, atoms)"
        )
    return proposal


def _equal(first: Proposal | None, second: Proposal | None) -> bool:
    if first is None or second is None:
        return first is second
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("positions", "backbone"))
