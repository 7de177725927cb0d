"""Propagators: what makes the next frame of a simulation.

A :class:`Propagator` is shown the present frame and proposes the next; the integrator commits it. Learned frames are
one (:class:`LearnedPropagator`), a segment of classical MD is another (:mod:`openmm_starmd.hybrid.segment`), and a
third party's is a class with two methods, given as ``StarMDSimulation(..., propagator=)`` by itself or by the name of
an entry point in the group ``openmm_starmd.propagators``. Reporters, checkpoints, exact restarts and ``alternate()``
come with the simulation. :func:`openmm_starmd.propagator_checks.check_propagator` tells an author what is wrong.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from openmm_starmd.model.config import ModelConfig
    from openmm_starmd.model.openfold import OpenFoldFeatures
    from openmm_starmd.model.weights import Weights
    from openmm_starmd.protein.protein import Protein
    from openmm_starmd.rollout import Rollout

Array = NDArray[np.float64]

GROUP = "openmm_starmd.propagators"
"""Group of entry points by whose names a propagator can be asked for."""
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
        Draws so far, those included that were taken back. With `seed` it is the key of all that is random: it never
        comes twice with another history. It is no clock.
    count : int
        Number of this frame in its history, whose start is frame 0; 0 where a history begins.
    time : float
        Of the simulation, ps.
    token : int
        Digest of every frame since the start; 0 where a history begins.
    seed : int
        Of the simulation, in [0, 2^63).
    positions : np.ndarray [atoms, 3]
        nm.
    state : bytes or None
        What :meth:`Propagator.state` gave when the checkpoint was saved that was just loaded. None at all other times.
    amplitude : float
        Natural logarithm of the factor on the protein's motion that ``simulation.calibrate()`` found; 0 without it.
    """

    number: int
    count: int
    time: float
    token: int
    seed: int
    positions: Array
    state: bytes | None
    _backbone: Callable[[], Array]
    _torsions: Callable[[], Array | None]
    _kept: Callable[[Sequence[int]], dict[int, Array]]
    amplitude: float = 0.0
    _reference: Callable[[], tuple[Array, Array]] | None = None

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

    @functools.cached_property
    def reference(self) -> tuple[Array, Array] | None:
        """N, CA, C [N, 3, 3], nm, and χ1..4 [N, 4], radians, of the start or of what a user set last.

        NaN where no χ is known. None unless the propagator has an attribute `lasting_reference` that is true.
        """
        return None if self._reference is None else self._reference()

    def kept(self, numbers: Sequence[int]) -> dict[int, Array]:
        """Backbones [N, 3, 3], nm, of earlier frames of this history, by their numbers in it.

        Parameters
        ----------
        numbers : sequence of int
            0 for the start, and the newest ``memory - 1`` up to `count`.

        Raises
        ------
        ValueError
            If one of them is not remembered.
        """
        if self.fresh and set(numbers) == {0}:
            return {0: self.backbone}
        return self._kept(numbers)

    def token_after(self, proposal: Proposal) -> int:
        """The `token` of the frame once `proposal` is committed; by it a propagator knows its own frame again."""
        frame = (np.ascontiguousarray(part, dtype=np.float64) for part in (proposal.positions, proposal.backbone))
        return digest(self.number, self.token, self.seed, *frame)


@runtime_checkable
class Propagator(Protocol):
    """What makes the next frame: two methods.

    A propagator may have three attributes beside them. ``memory`` (int, at least 2; 8 by default): how many frames of
    the history it can look back on, the start included. ``identity`` (tuple, empty by default): what decides its frames
    beside its class, protein, start, stride and atoms; a checkpoint of a propagator with another one is refused.
    ``name`` (str): what ``repr(simulation)`` calls it.

    Frames are reported as they are proposed: whether each is superposed on the one before is the propagator's affair.

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


class LearnedPropagator:
    """Frames drawn by a trained network: owns the rollout and what is held of it.

    Parameters
    ----------
    protein : Protein
        N residues.
    rollout : Rollout
        Of one replica, at its start. Its memory is rebuilt from the history whenever the two disagree: after a
        checkpoint or state was loaded, after an interrupt.
    atoms : {"ca", "backbone", "heavy"}
        Which atoms a frame has.
    torsions : bool
        Whether drawn torsions place O and side chains; else those ride rigidly on their residue.
    weights_id : str
        Names the weights, so that a checkpoint made with others is refused.
    name : str
        What people call the weights.
    config : ModelConfig, optional
        Of the weights; says what their reference structure is, and whether they have an elastic prior.

    Attributes
    ----------
    lasting_reference : bool
        Whether the reference structure is that of the simulation's start, or the one that a user set last, whatever
        classical segments come in between. Else each history's frame 0 is, and torsions are the input's for good.
    elastic : ElasticSettings or None
        Of weights with an elastic prior.
    """

    def __init__(
        self,
        protein: Protein,
        rollout: Rollout,
        *,
        atoms: str = "backbone",
        torsions: bool = False,
        weights_id: str = "",
        name: str = "",
        config: ModelConfig | None = None,
    ) -> None:
        if len(rollout.seeds) != 1:
            raise ValueError(f"the rollout has {len(rollout.seeds)} replicas; a simulation has exactly one")
        self._protein, self.rollout, self._atoms, self._torsions = protein, rollout, atoms, torsions
        self.memory = rollout.settings.max_context
        self.identity = (weights_id, torsions, rollout.settings)
        self.name = name
        self.lasting_reference = config is not None and config.lasting_reference
        self.elastic = config.elastic if config is not None and config.prior == "elastic" else None
        # token, number, seed and amplitude of the frame in the rollout's memory
        self._held: tuple[int, int, int, float] | None = None

    @classmethod
    def from_weights(
        cls,
        protein: Protein,
        weights: Weights,
        *,
        stride: float,
        seed: int,
        atoms: str,
        device: str | torch.device | None = None,
        steps: int | None = None,
        max_context: int | None = None,
        openfold_features: OpenFoldFeatures | None = None,
    ) -> LearnedPropagator:
        """Frames of a protein with trained weights.

        Parameters
        ----------
        protein : Protein
        weights : Weights
        stride : float
            ps.
        seed : int
        atoms : {"ca", "backbone", "heavy"}
        device, steps, max_context, openfold_features
            As :func:`openmm_starmd.rollout.make_rollout` takes them.

        Raises
        ------
        ValueError
            If an argument does not fit the weights.
        """
        from openmm_starmd.rollout import make_rollout

        rollout = make_rollout(
            protein,
            weights,
            stride=stride,
            seed=seed,
            device=device,
            steps=steps,
            max_context=max_context,
            openfold_features=openfold_features,
        )
        return cls(
            protein,
            rollout,
            atoms=atoms,
            torsions=weights.config.torsions_trained,
            weights_id=fingerprint(weights, openfold_features),
            name=weights.name,
            config=weights.config,
        )

    def next_frame(self, present: Present) -> Proposal:
        """Draw the next frame; see :meth:`Propagator.next_frame`."""
        # an interrupt while drawing leaves the rollout's memory in doubt
        held, self._held = self._held, None
        if present.fresh:
            start = _as_replica(present.backbone)
            self._prepare(present)
            self.rollout.begin(start, present.number, **self._reference(present))
        elif held != (present.token, present.number, present.seed, present.amplitude):
            self._restore(present)
        frame = self.rollout.step()
        backbone = frame.backbone[0].numpy()
        torsions = frame.torsions[0].numpy() if self._torsions else None
        proposal = Proposal(self._protein.frame_positions(backbone, self._atoms, torsions), backbone)
        self._held = (present.token_after(proposal), present.number + 1, present.seed, present.amplitude)
        return proposal

    def state(self) -> None:
        """Nothing: what a rollout remembers follows from the history."""
        return None

    def _restore(self, present: Present) -> None:
        from openmm_starmd.rollout import kept_frames

        numbers = kept_frames(present.count, self.memory)
        frames = {number: _as_replica(backbone) for number, backbone in present.kept(numbers).items()}
        self._prepare(present)
        offset = present.number - present.count
        self.rollout.restore(frames, present.count, offset, **self._reference(present))

    def _prepare(self, present: Present) -> None:
        """Tell the rollout the seed and the amplitude."""
        self.rollout.seeds = (present.seed,)
        if self.elastic is not None:
            self.rollout.features = replace(self.rollout.features, amplitude=present.amplitude)

    def _reference(self, present: Present) -> dict[str, torch.Tensor]:
        """The rollout's arguments about a reference structure that is not the history's own."""
        from openmm_starmd.rollout import reference_torsions

        if not self.lasting_reference or present.reference is None:
            return {}
        backbone, chi = present.reference
        torsions = reference_torsions(self.rollout.features, backbone, chi)
        return {"reference": _as_replica(backbone), "torsions": torsions[None]}


def fingerprint(weights: Weights, features: OpenFoldFeatures | None = None) -> str:
    """Digest of a network's configuration, parameters and extra input, whatever the weights are called."""
    hasher = hashlib.sha256(repr(weights.config).encode())
    for name, value in sorted(weights.network.state_dict().items()):
        hasher.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for value in features or ():
        hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _as_replica(backbone: Array) -> torch.Tensor:
    """Backbone [N, 3, 3] as the batch of one, [1, N, 3, 3], that a rollout takes."""
    import torch

    return torch.from_numpy(np.array(backbone, dtype=np.float64))[None]


def find_propagator(
    choice: str | Propagator | Callable[..., Propagator], protein: Protein, *, stride: float, atoms: str
) -> Propagator:
    """The propagator that a user asked for.

    Parameters
    ----------
    choice : str, Propagator or callable
        The name of an entry point in the group ``openmm_starmd.propagators``, an object, or what makes one: a class or
        function called as ``choice(protein, stride=..., atoms=...)``, which is what an entry point names, too.
    protein : Protein
    stride : float
        ps.
    atoms : {"ca", "backbone", "heavy"}

    Returns
    -------
    Propagator

    Raises
    ------
    ValueError
        If there is no entry point of that name; lists those there are.
    TypeError
        If what results has not the two methods of a propagator; names those that are missing.
    """
    made: Any = choice
    if isinstance(choice, str):
        there = {point.name: point for point in entry_points(group=GROUP)}
        if choice not in there:
            known = f"there are {', '.join(sorted(there))}" if there else "no installed package brings one"
            raise ValueError(f"there is no propagator {choice!r}: {known} (entry points of the group {GROUP!r})")
        made = there[choice].load()
    if isinstance(made, type) or not isinstance(made, Propagator):
        if not callable(made):
            raise TypeError(f"propagator is a {type(made).__name__}, which {_lacking(made)}")
        made = made(protein, stride=stride, atoms=atoms)
    if not isinstance(made, Propagator):
        raise TypeError(f"the propagator made is a {type(made).__name__}, which {_lacking(made)}")
    return made


def _lacking(thing: Any) -> str:
    missing = [name for name in ("next_frame", "state") if not callable(getattr(thing, name, None))]
    return f"has no method {' and no method '.join(missing)}: see openmm_starmd.propagators.Propagator"


def identity_of(propagator: Propagator) -> tuple[Any, ...]:
    """What decides a propagator's frames: its class, how far it looks back, and what it says itself."""
    own = getattr(propagator, "identity", ())
    if not isinstance(own, tuple):
        raise ValueError(f"the propagator's identity is {own!r}; it must be a tuple of what decides its frames")
    if isinstance(propagator, LearnedPropagator):
        return own  # as checkpoints of all versions hold it
    kind = type(propagator)
    return (f"{kind.__module__}.{kind.__qualname__}", memory_of(propagator), *own)


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
            f"frames {gone} of the history are not remembered: the newest is frame {count}, and a memory of {memory} "
            f"holds the start and the newest {memory - 1}. Ask for fewer, or give the propagator a larger `memory`"
        )


def digest(*parts: Any) -> int:
    """Digest of 52 bits, never 0, which a double holds exactly."""
    hasher = hashlib.sha256()
    for part in parts:
        data = np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hasher.digest()[:8], "little") % (2**52 - 1) + 1
