"""StarMDIntegrator: an OpenMM integrator whose step is one learned frame.

The frame history lives in the integrator's own variables (:mod:`openmm_starmd.history`). The
:class:`~openmm_starmd.rollout.Rollout` is a worker, whose memory is rebuilt from them whenever the two disagree: after
a checkpoint or state was loaded, after an interrupt.
"""

from __future__ import annotations

import math
import warnings
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openmm as mm
from openmm import unit

from openmm_starmd.errors import StarMDWarning, Uncopiable
from openmm_starmd.history import History, HistoryIntegrator, digest
from openmm_starmd.quantities import in_unit, whole_number

if TYPE_CHECKING:
    import torch

    from openmm_starmd.classical.segment import Segment
    from openmm_starmd.protein.protein import Protein
    from openmm_starmd.rollout import Rollout

_BROKEN_BOND = 0.3  # nm; a residue whose N-CA or CA-C is longer is not a residue


class Present(NamedTuple):
    """The current frame.

    Attributes
    ----------
    number : int
        Frames drawn so far.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C, nm.
    torsions : np.ndarray [N, 7] or None
        φ, ψ, ω, χ1..4, radians, NaN where there is none; None unless frames have side chains.
    """

    number: int
    backbone: np.ndarray
    torsions: np.ndarray | None


class StarMDIntegrator(Uncopiable, HistoryIntegrator):
    """Moves the atoms of a frame topology from one learned frame to the next.

    :class:`~openmm_starmd.simulation.StarMDSimulation` makes and binds one; by hand, make a Context of a System with
    one particle per atom of ``protein.frame_topology(atoms)``, set its positions, and call :meth:`bind`.

    Parameters
    ----------
    protein : Protein
        N residues.
    rollout : Rollout
        Of one replica, at its start.
    atoms : {"ca", "backbone", "heavy"}
        Which atoms a frame has.
    torsions : bool
        Whether drawn torsions place O and side chains; else those ride rigidly on their residue.
    weights_id : str
        Names the weights, so that a checkpoint made with others is refused.

    Attributes
    ----------
    segment : Segment or None
        Classical MD that makes the frames in place of the rollout, while there is one.
    pending : bytes or None
        State of a segment that a loaded checkpoint was saved in, until the segment is entered again.

    Notes
    -----
    ``getStepSize()`` is the stride; time advances by one stride a step. A caller that steps the integrator from C++
    (``CompoundIntegrator``) gets infinite positions rather than silently frozen ones.
    """

    def __init__(
        self,
        protein: Protein,
        rollout: Rollout,
        *,
        atoms: str = "backbone",
        torsions: bool = False,
        weights_id: str = "",
    ) -> None:
        if len(rollout.seeds) != 1:
            raise ValueError(f"the rollout has {len(rollout.seeds)} replicas; an integrator moves exactly one")
        start = protein.frame_positions(protein.backbone, atoms)
        sequence = (protein.sequence, protein.residue_types, protein.residue_index, protein.chain_index, protein.bonded)
        super().__init__(
            rollout.stride,
            residues=len(protein.backbone),
            particles=len(start),
            max_context=rollout.settings.max_context,
            seed=rollout.seeds[0],
            identity={
                "id_protein": digest(*sequence),
                "id_start": digest(start, protein.backbone),
                "id_weights": digest(weights_id),
                "id_settings": digest(rollout.stride, atoms, torsions, rollout.settings),
            },
        )
        self.stage_start(protein.backbone)
        self._protein, self._rollout, self._atoms, self._torsions = protein, rollout, atoms, torsions
        self._context: weakref.ref[mm.Context] | None = None
        self._held = -1  # token of the history in the rollout's memory; -1: none that can be relied upon
        self._last: np.ndarray | None = None  # positions committed with that token
        self._warned = False
        self.segment: Segment | None = None
        self.pending: bytes | None = None

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
        """Draw and commit `steps` frames.

        Parameters
        ----------
        steps : int
            At least 0; a float is accepted if it is whole.
        """
        for _ in range(whole_number(steps)):
            self._advance()

    def skip_draws(self, frames: int) -> None:
        """Leave out the random numbers of the next `frames` frames: what is drawn from here on is another future.

        For programs that go back to an earlier state and want to go on from it differently.
        """
        self.setGlobalVariableByName("offset", self.history().offset + whole_number(frames))
        self._held = -1

    def present(self) -> Present:
        """The current frame, as a history or a segment would start from it."""
        history, positions = self.history(), self._positions(self._bound())
        torsions = None
        if self._atoms == "heavy":
            torsions = self._protein.backmap("heavy").measure(positions)
        return Present(history.offset + history.count, self._present_backbone(history, positions), torsions)

    def _present_backbone(self, history: History, positions: np.ndarray) -> np.ndarray:
        if history.token and np.array_equal(positions, self.committed()):
            return self.kept([history.count])[history.count]
        return self._backbone_at(positions)

    def _bound(self) -> mm.Context:
        context = self._context() if self._context is not None else None
        if context is None:
            raise RuntimeError(
                "this StarMDIntegrator is bound to no Context: use StarMDSimulation, or call bind(context)"
            )
        return context

    def _advance(self) -> None:
        context = self._bound()
        self.require_identity()
        if self.pending is not None:
            raise ValueError(
                "this checkpoint was saved inside a classical segment: go on in it with simulation.classical(...) and "
                "that segment's settings, or call simulation.leaveSegment() to go on with learned frames"
            )
        if self.segment is not None:
            self._advance_classically(self.segment, context)
            return
        history, positions = self.history(), self._positions(context)
        fresh = self._synchronise(history, positions)
        self._held = -1
        if fresh is not None:
            history = History(0, history.offset + history.count, 0, history.seed)
            self._rollout.begin(_as_replica(fresh), history.offset)
        frame = self._rollout.step()
        backbone = frame.backbone[0].numpy()
        torsions = frame.torsions[0].numpy() if self._torsions else None
        new = np.ascontiguousarray(self._protein.frame_positions(backbone, self._atoms, torsions), dtype=np.float64)
        if not np.isfinite(new).all():
            raise RuntimeError(
                f"frame {history.count + 1} of the rollout is not finite; the simulation stays at the frame before. "
                "Is the stride or the protein far from what the weights were trained on?"
            )
        token = digest(history, new, backbone)
        self.commit(replace(history, count=history.count + 1, token=token), new, backbone, fresh)
        self._last, self._held = new, token

    def _advance_classically(self, segment: Segment, context: mm.Context) -> None:
        """Commit the end of a stride of classical MD; the first one begins a new history."""
        history = self.history()
        frame = segment.advance(self._present_backbone(history, self._positions(context)))
        if frame.start is not None:
            history = History(0, history.offset + history.count, 0, history.seed)
        self._held = -1
        token = digest(history, frame.positions, frame.backbone, frame.start)
        self.commit(replace(history, count=history.count + 1, token=token), *frame)

    def _synchronise(self, history: History, positions: np.ndarray) -> np.ndarray | None:
        """Bring the rollout's memory to `history`, or return the backbone [N, 3, 3] a new history starts from."""
        if history.token == 0:
            return self._backbone_at(positions)
        if self._held != history.token or self._rollout.seeds != (history.seed,):
            self._held = -1
            self._rollout.seeds = (history.seed,)
            self._last = self.committed()
            if np.array_equal(positions, self._last):
                self._restore(history)
        if self._last is None or not np.array_equal(positions, self._last):
            return self._backbone_at(positions)
        return None

    def _restore(self, history: History) -> None:
        from openmm_starmd.diffusion.samplers import kept_frames

        numbers = kept_frames(history.count, self._rollout.settings.max_context)
        frames = {number: _as_replica(backbone) for number, backbone in self.kept(numbers).items()}
        self._rollout.restore(frames, history.count, history.offset)

    def _backbone_at(self, positions: np.ndarray) -> np.ndarray:
        """N, CA, C [N, 3, 3] of the positions [atoms, 3] that someone set; nm."""
        self._rollout.seeds = (self.seed,)
        backbone = self._protein.backbone_from_frame(positions, self._atoms)
        if backbone is None:
            backbone = self.staged_start()
            if not np.array_equal(backbone[:, 1], positions):
                raise ValueError(CA_ONLY)
            return backbone
        bonds = np.linalg.norm(np.diff(backbone, axis=1), axis=-1).max(axis=-1)  # [N]
        if bonds.max() > _BROKEN_BOND:
            residue = int(bonds.argmax())
            raise ValueError(
                f"{self._protein.residue_label(residue)} is torn: its N-CA or CA-C distance is "
                f"{10 * bonds[residue]:.1f} Å in the positions that were set. Give positions in the order of "
                "simulation.topology, in nm"
            )
        return backbone

    def accept_positions(self, positions: np.ndarray) -> None:
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

    def _positions(self, context: mm.Context) -> np.ndarray:
        positions = context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
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


def _as_replica(backbone: np.ndarray) -> torch.Tensor:
    """Backbone [N, 3, 3] as the batch of one, [1, N, 3, 3], that a rollout takes."""
    import torch

    return torch.from_numpy(np.array(backbone, dtype=np.float64))[None]
