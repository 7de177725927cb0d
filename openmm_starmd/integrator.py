"""StarMDIntegrator: an OpenMM integrator whose step is one frame of a propagator.

It asks its propagator for the next frame, checks it and commits it in one call. The frame history lives in the
integrator's own variables (:mod:`openmm_starmd.history`), so OpenMM's persistence carries it.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm as mm
from numpy.typing import NDArray
from openmm import unit

from openmm_starmd.errors import StarMDWarning, Uncopiable, keyboard_interrupts
from openmm_starmd.geometry.residues import BROKEN_BOND
from openmm_starmd.history import History, HistoryIntegrator
from openmm_starmd.propagators import (
    Present,
    Propagator,
    Proposal,
    check_numbers,
    digest,
    identity_of,
    memory_of,
)
from openmm_starmd.quantities import in_unit, whole_number

if TYPE_CHECKING:
    from openmm_starmd.hybrid.segment import Segment
    from openmm_starmd.protein.protein import Protein

Array = NDArray[np.float64]

CHI = slice(3, 7)
"""Where χ1..4 are among φ, ψ, ω, χ1..4."""

_state_of = mm.Context.getState  # OpenMM's own method: of positions there is nothing to warn


class StarMDIntegrator(Uncopiable, HistoryIntegrator):
    """Moves the atoms of a frame topology from one frame of a propagator to the next.

    :class:`~openmm_starmd.simulation.StarMDSimulation` makes and binds one; by hand, make a Context of a System with
    one particle per atom of ``protein.frame_topology(atoms)``, set its positions, and call :meth:`bind`.

    Parameters
    ----------
    protein : Protein
        N residues.
    propagator : Propagator
        Makes the frames.
    stride : float
        Time between frames, ps.
    seed : int
        In [0, 2^63).
    atoms : {"ca", "backbone", "heavy"}
        Which atoms a frame has.

    Attributes
    ----------
    propagator : Propagator
    segment : Segment or None
        Classical MD that makes the frames in place of the propagator, while there is one.
    pending : bytes or None
        State of a segment that a loaded checkpoint was saved in, until the segment is entered again.

    Notes
    -----
    ``getStepSize()`` is the stride; time advances by one stride a step. A caller that steps the integrator from C++
    (``CompoundIntegrator``) gets infinite positions rather than silently frozen ones.
    """

    def __init__(
        self, protein: Protein, propagator: Propagator, *, stride: float, seed: int, atoms: str = "backbone"
    ) -> None:
        start = protein.frame_positions(protein.backbone, atoms)
        sequence = (protein.sequence, protein.residue_types, protein.residue_index, protein.chain_index, protein.bonded)
        name, *settings = identity_of(propagator)
        super().__init__(
            stride,
            residues=len(protein.backbone),
            particles=len(start),
            max_context=memory_of(propagator),
            seed=seed,
            identity={
                "id_protein": digest(*sequence),
                "id_start": digest(start, protein.backbone),
                "id_weights": digest(name),
                "id_settings": digest(stride, atoms, *settings),
            },
            lasting=bool(getattr(propagator, "lasting_reference", False)),
            amplitude=getattr(propagator, "elastic", None) is not None,
        )
        self.stage_protein(protein)
        self.propagator = propagator
        self.segment: Segment | None = None
        self.pending: bytes | None = None
        self._brought: tuple[int, bytes] | None = None  # state that a checkpoint brought, and the token of its frame
        self._protein, self._atoms = protein, atoms
        self._context: weakref.ref[mm.Context] | None = None
        self._last: tuple[int, Array] | None = None  # token of the newest frame, and its positions
        self._warned = False

    def bind(self, context: mm.Context) -> None:
        """Tell the integrator its Context, which it does not learn from OpenMM.

        The Context becomes a :class:`~openmm_starmd.context.FrameContext`.

        Parameters
        ----------
        context : openmm.Context
            Made with this integrator. Only a weak reference is kept.
        """
        from openmm_starmd.context import FrameContext

        if context.getIntegrator() is not self:
            raise ValueError("the Context was made with another integrator")
        particles = context.getSystem().getNumParticles()
        if particles != self._particles:
            raise ValueError(
                f"the System has {particles} particles, but frames with atoms={self._atoms!r} have {self._particles}: "
                "build it from protein.frame_topology(atoms)"
            )
        # OpenMM's Simulation makes its Context itself, so there is no other place to choose the class
        context.__class__ = FrameContext
        self._context = weakref.ref(context)

    @property
    def seed(self) -> int:
        """Seed of the random draws; a loaded checkpoint brings its own."""
        return self.history().seed

    def step(self, steps: int) -> None:
        """Make and commit `steps` frames.

        Parameters
        ----------
        steps : int
            At least 0; a float is accepted if it is whole.
        """
        with keyboard_interrupts():
            for _ in range(whole_number(steps)):
                self._advance()

    def skip_draws(self, frames: int) -> None:
        """Leave out the random numbers of the next `frames` frames: what is drawn from here on is another future.

        For programs that go back to an earlier state and want to go on from it differently.
        """
        self.setGlobalVariableByName("offset", self.history().offset + whole_number(frames))

    def present(self) -> Present:
        """The current frame, as a propagator, a history or a segment would start from it.

        Raises
        ------
        RuntimeError
            If positions are not finite, or were never set.
        """
        history, state = self.history(), _state_of(self._bound(), positions=True)
        positions = self._positions(state)
        fresh = history.token == 0 or not np.array_equal(positions, self._committed(history))
        torsions: Any = self._torsions if self._atoms == "heavy" else _nothing
        return Present(
            number=history.offset + history.count,
            count=0 if fresh else history.count,
            time=state.getTime().value_in_unit(unit.picosecond),
            token=0 if fresh else history.token,
            seed=history.seed,
            positions=positions,
            state=self._state_of(history),
            _backbone=partial(self._backbone_at, positions) if fresh else partial(self._newest, history.count),
            _torsions=partial(torsions, positions),
            _kept=partial(self._kept_of, 0 if fresh else history.count),
            amplitude=self.amplitude,
            _reference=partial(self._reference_at, positions if fresh else None) if self.lasting else None,
        )

    def stage_protein(self, protein: Protein) -> None:
        """Keep a structure of the protein as what the next new history starts from."""
        self.stage_start(protein.backbone)
        self.stage_chi(np.where(protein.torsion_mask, protein.torsions, np.nan)[:, CHI])

    def took_positions(self, positions: Array) -> None:
        """Stage what positions [atoms, 3], nm, that somebody set tell of a new reference structure.

        Frames without side chains tell nothing of χ, which then stay what they were.
        """
        if self.lasting and self._atoms == "heavy":
            self.stage_chi(self._torsions(positions)[:, CHI])

    def _reference_at(self, positions: Array | None) -> tuple[Array, Array]:
        """N, CA, C and χ1..4 of the reference structure; of one that `positions` make, where somebody has set them."""
        return self.reference() if positions is None else (self._backbone_at(positions), self.staged_chi())

    def kept_history(self) -> list[Array]:
        """Backbones [N, 3, 3], nm, of the newest contiguous frames of the history, its start left out."""
        from openmm_starmd.rollout import kept_frames

        history = self.history()
        numbers = kept_frames(history.count, self.max_context)[1:] if history.token else []
        return list(self.kept(numbers).values())

    def _kept_of(self, count: int, numbers: Sequence[int]) -> dict[int, Array]:
        check_numbers(numbers, count, self.max_context)
        return self.kept(list(numbers))

    def _newest(self, count: int) -> Array:
        return self.kept([count])[count]

    def _torsions(self, positions: Array) -> Array:
        return self._protein.backmap("heavy").measure(positions)

    def _committed(self, history: History) -> Array:
        """Positions of the newest frame, read back only when the token says that they are another's."""
        if self._last is None or self._last[0] != history.token:
            self._last = (history.token, self.committed())
        return self._last[1]

    def _bound(self) -> mm.Context:
        context = self._context() if self._context is not None else None
        if context is None:
            raise RuntimeError(
                "this StarMDIntegrator is bound to no Context: use StarMDSimulation, or call bind(context)"
            )
        return context

    def _advance(self) -> None:
        """Ask for the next frame and commit it."""
        self._bound()
        self.require_identity()
        if self.pending is not None:
            raise ValueError(
                "this checkpoint was saved inside a classical segment: go on in it with simulation.classical(...) and "
                "that segment's settings, or call simulation.leaveSegment() to go on with learned frames"
            )
        present = self.present()
        propagator: Propagator = self.segment or self.propagator
        proposal = self._checked(propagator, propagator.next_frame(present), present)
        start = present.backbone if proposal.start is None and present.fresh else proposal.start
        begins = start is not None
        history = History(
            count=1 if begins else present.count + 1,
            offset=present.number if begins else present.number - present.count,
            token=present.token_after(proposal),
            seed=present.seed,
        )
        reference = present.backbone if self.lasting and present.fresh else None
        self.commit(history, proposal.positions, proposal.backbone, start, reference)
        self._last = (history.token, proposal.positions)

    def _checked(self, propagator: Propagator, proposal: Proposal, present: Present) -> Proposal:
        """The proposal in float64, or an error that says what is wrong with it."""
        who = type(propagator).__name__
        shapes = {"positions": (self._particles, 3), "backbone": (self._residues, 3, 3)}
        made = {}
        for name, shape in shapes.items():
            made[name] = np.ascontiguousarray(getattr(proposal, name), dtype=np.float64)
            if made[name].shape != shape:
                raise ValueError(f"{who} proposed {name} of the shape {made[name].shape}; expected {shape}")
        if not all(np.isfinite(values).all() for values in made.values()):
            raise RuntimeError(
                f"{who} proposed a frame that is not finite; the simulation stays at the frame before. "
                "Where weights draw it: is the stride or the protein far from what they were trained on?"
            )
        return Proposal(made["positions"], made["backbone"], proposal.start)

    def _backbone_at(self, positions: Array) -> Array:
        """N, CA, C [N, 3, 3] of the positions [atoms, 3] that someone set; nm."""
        backbone = self._protein.backbone_from_frame(positions, self._atoms)
        if backbone is None:
            backbone = self.staged_start()
            if not np.array_equal(backbone[:, 1], positions):
                raise ValueError(CA_ONLY)
            return backbone
        bonds = np.linalg.norm(np.diff(backbone, axis=1), axis=-1).max(axis=-1)  # [N]
        if bonds.max() > BROKEN_BOND:
            residue = int(bonds.argmax())
            raise ValueError(
                f"{self._protein.residue_label(residue)} is torn: its N-CA or CA-C distance is "
                f"{10 * bonds[residue]:.1f} Å in the positions that were set. Give positions in the order of "
                "simulation.topology, in nm"
            )
        return backbone

    def accept_positions(self, positions: Array) -> None:
        """Raise a ValueError if no history can start from `positions` [atoms, 3], nm."""
        self.require_no_segment()
        if positions.shape != (self._particles, 3):
            raise ValueError(
                f"positions have shape {positions.shape}, but a frame has {self._particles} atoms "
                f"(atoms={self._atoms!r}). The constructor has set positions already; "
                "simulation.setPositions() takes the input's full set"
            )
        if not np.isfinite(positions).all():
            raise ValueError(f"the position of atom {int((~np.isfinite(positions)).any(1).argmax())} is not finite")
        if self._atoms == "ca":
            known = self.staged_start()[:, 1], self.committed()
            if not any(np.array_equal(positions, one) for one in known):
                raise ValueError(CA_ONLY)

    def state_to_save(self) -> bytes | None:
        """State of the propagator; the one that a checkpoint brought, where no frame has used it yet."""
        brought = self._state_of(self.history())
        return self.propagator.state() if brought is None else brought

    def bring_state(self, state: bytes | None) -> None:
        """Show the propagator a state with the present frame; None for none."""
        self._brought = None if state is None else (self.history().token, state)

    def _state_of(self, history: History) -> bytes | None:
        """What a checkpoint brought for the present frame; nothing once there is another one."""
        # compared rather than dropped at the next frame, so that an interrupt in between leaves nothing stale
        if self._brought is None or self._brought[0] != history.token:
            return None
        return self._brought[1]

    def forget_states(self) -> None:
        """Drop what a loaded checkpoint brought for a segment or a propagator: the frame is another now."""
        self.pending = self._brought = None

    def require_no_segment(self) -> None:
        """Raise a ValueError inside a classical segment, whose state would no longer fit."""
        if self.segment is not None:
            raise ValueError(
                "a classical segment is running: leave it first (the end of its with statement), or move atoms in the "
                "all-atom simulation"
            )

    def warn_no_forces(self) -> None:
        """Say, once, that a frame has neither energies, forces nor velocities."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                "learned frames have no energies, forces or velocities: all of them read zero, and the temperature nan",
                StarMDWarning,
                stacklevel=3,
            )

    def computeSystemTemperature(self) -> unit.Quantity:
        """Nan kelvin: a frame has no velocities. StateDataReporter prints it."""
        return math.nan * unit.kelvin

    def setStepSize(self, size: Any) -> None:
        """Accept only the present stride: trajectory formats and the history need a constant one."""
        stride = in_unit(size, unit.picosecond)
        if stride != self.getStepSize().value_in_unit(unit.picosecond):
            raise ValueError("the stride is fixed for a simulation's life: make a StarMDSimulation with another stride")

    def _positions(self, state: mm.State) -> Array:
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if not np.isfinite(positions).all():
            raise RuntimeError(
                "positions are not finite: something other than Python's step() advanced this integrator (a "
                "CompoundIntegrator, for one, calls C++). Set positions or load a checkpoint, and step the simulation"
            )
        if not positions.any():
            raise RuntimeError(
                "every atom is at the origin: context.reinitialize() drops positions. Use preserveState=True, or "
                "set them"
            )
        return positions


CA_ONLY = (
    "CA positions alone do not tell where a history starts: give the input's full positions to "
    "simulation.setPositions(), or use atoms='backbone'"
)


def _nothing(positions: Array) -> None:
    """No torsions: the frames have no side chains."""
