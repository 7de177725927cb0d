"""The contract of a propagator: what it is shown, what it proposes, and by what its frames are known again."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MEMORY = 8
"""Frames of the history that a propagator without an attribute `memory` can look back on."""


class Proposal(NamedTuple):
    """A frame that a propagator proposes.

    Attributes
    ----------
    positions : np.ndarray [atoms, 3]
        Of the frame topology's atoms, nm.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C of each residue, nm: what the history keeps.
    start : np.ndarray [N, 3, 3] or None
        Where the frame begins a new history: N, CA, C of that history's frame 0. Left None by most propagators; where
        there is no history (:attr:`Present.fresh`) it is then the present frame.
    """

    positions: Array
    backbone: Array
    start: Array | None = None


@dataclass(frozen=True)
class Present:
    """The present frame, as the integrator shows it to a propagator.

    Attributes
    ----------
    number : int
        Frames drawn so far. With `seed` it is the key of all that is random: it never comes twice with another history.
    count : int
        Number of this frame in its history, whose start is frame 0; 0 where a history begins.
    token : int
        Digest of every frame since the start; 0 where a history begins.
    seed : int
        Of the simulation, in [0, 2^63).
    positions : np.ndarray [atoms, 3]
        nm.
    state : bytes or None
        What :meth:`Propagator.state` gave when the checkpoint was saved that was just loaded. None at all other times.
    """

    number: int
    count: int
    token: int
    seed: int
    positions: Array
    state: bytes | None
    _backbone: Callable[[], Array]
    _torsions: Callable[[], Array | None]
    _kept: Callable[[Sequence[int]], dict[int, Array]]

    @property
    def fresh(self) -> bool:
        """Whether a history begins here: at the start, and where somebody has set positions."""
        return self.token == 0

    @functools.cached_property
    def backbone(self) -> Array:
        """N, CA, C of each residue, [N, 3, 3], nm."""
        return self._backbone()

    @functools.cached_property
    def torsions(self) -> Array | None:
        """φ, ψ, ω, χ1..4 [N, 7], radians, NaN where there is none; None unless frames have side chains."""
        return self._torsions()

    def kept(self, numbers: Sequence[int]) -> dict[int, Array]:
        """Backbones [N, 3, 3], nm, of earlier frames of this history, by their numbers in it.

        Parameters
        ----------
        numbers : sequence of int
            0 for the start, and the newest ``memory - 1`` up to `count`.
        """
        return self._kept(numbers)

    def token_after(self, proposal: Proposal) -> int:
        """The `token` of the frame once `proposal` is committed; by it a propagator knows its own frame again."""
        frame = (np.ascontiguousarray(part, dtype=np.float64) for part in (proposal.positions, proposal.backbone))
        return digest(self.number, self.token, self.seed, *frame)


@runtime_checkable
class Propagator(Protocol):
    """What makes the next frame: two methods.

    A propagator may have three attributes beside them. ``memory`` (int, at least 2; 8 by default): how many frames of
    the history it can look back on, the start included. ``identity`` (tuple, its class's name by default): what decides
    its frames beside protein, start, stride and atoms; a checkpoint of a propagator with another identity is refused.
    ``name`` (str): what ``repr(simulation)`` calls it.

    Exact restarts rest on one rule: a proposal depends on what `present` shows, on what the propagator was made with,
    and on what :meth:`state` saves. Random numbers are keyed by ``(present.seed, present.number)``.
    """

    def next_frame(self, present: Present) -> Proposal:
        """Propose the frame one stride after the present one.

        Parameters
        ----------
        present : Present
            Its arrays are not to be changed.

        Returns
        -------
        Proposal
            Committed at once. An exception, Ctrl-C included, leaves the simulation at the present frame, which may then
            be shown again.
        """
        ...

    def state(self) -> bytes | None:
        """What a checkpoint carries beside the history, to be seen again as :attr:`Present.state`; None for nothing."""
        ...


def identity_of(propagator: Propagator) -> tuple[Any, ...]:
    """What decides a propagator's frames: its `identity`, or the name of its class and how far it looks back."""
    kind = type(propagator)
    default = (f"{kind.__module__}.{kind.__qualname__}", memory_of(propagator))
    return tuple(getattr(propagator, "identity", default))


def memory_of(propagator: Propagator) -> int:
    """How many frames of the history a propagator looks back on."""
    memory = getattr(propagator, "memory", MEMORY)
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 2:
        raise ValueError(f"the propagator's memory is {memory!r}; it must be a whole number of frames, at least 2")
    return memory


def check_numbers(numbers: Sequence[int], count: int, memory: int) -> None:
    """Raise a ValueError for frames that are not among those remembered: the start and the newest ``memory - 1``."""
    oldest = max(1, count - memory + 2)
    gone = [number for number in numbers if not count or not (number == 0 or oldest <= number <= count)]
    if gone:
        raise ValueError(
            f"frames {list(numbers)} of the history were asked for, of which {gone} are not remembered: the newest is "
            f"frame {count}; a memory of {memory} holds the start and the newest {memory - 1}"
        )


def digest(*parts: Any) -> int:
    """Digest of 52 bits, never 0, which a double holds exactly."""
    hasher = hashlib.sha256()
    for part in parts:
        data = np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hasher.digest()[:8], "little") % (2**52 - 1) + 1
