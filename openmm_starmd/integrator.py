"""StarMDIntegrator: an OpenMM integrator whose step is one learned frame.

All that a rollout needs to go on lives in the integrator's own variables, because OpenMM carries those through
checkpoints, states and reinitialisation bit by bit. The :class:`~openmm_starmd.rollout.Rollout` is a worker whose
memory is rebuilt from them whenever the two disagree. A frame is drawn in Python, laid into staging variables that
nothing else reads, and committed by ONE call into C++, which moves positions, history, time and step count together;
an interrupt therefore finds either the old frame or the new one.
"""

from __future__ import annotations

import hashlib
import math
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import openmm as mm
from openmm import unit

from openmm_starmd.errors import StarMDWarning

if TYPE_CHECKING:
    import torch

    from openmm_starmd.protein import Protein
    from openmm_starmd.rollout import Rollout

IDENTITY = {
    "id_protein": "protein",
    "id_start": "start structure",
    "id_weights": "weights",
    "id_settings": "stride, atoms, steps or max_context",
}
_BROKEN_BOND = 0.3  # nm; a residue whose N-CA or CA-C is longer is not a residue


class History(NamedTuple):
    """Where a history stands, as the integrator's global variables have it.

    Attributes
    ----------
    count : int
        Number of the newest frame; the start is frame 0.
    offset : int
        Frames drawn before this history began.
    token : int
        Digest of every frame since the start; 0 where there is no history yet.
    seed : int
    """

    count: int
    offset: int
    token: int
    seed: int


class StarMDIntegrator(mm.CustomIntegrator):
    """Moves the atoms of a frame topology from one learned frame to the next.

    :class:`~openmm_starmd.simulation.StarMDSimulation` makes and binds one; by hand, make a Context of a System with one
    particle per atom of ``protein.frame_topology(atoms)``, set its positions, and call :meth:`bind`.

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

    Notes
    -----
    ``getStepSize()`` is the stride; time advances by one stride a step. A caller that steps the integrator from C++
    (``CompoundIntegrator``) gets infinite positions rather than silently frozen ones.
    """

    def __init__(
        self, protein: Protein, rollout: Rollout, *, atoms: str = "backbone", torsions: bool = False, weights_id: str = ""
    ) -> None:
        super().__init__(rollout.stride)
        if len(rollout.seeds) != 1:
            raise ValueError(f"the rollout has {len(rollout.seeds)} replicas; an integrator moves exactly one")
        self._protein, self._rollout, self._atoms, self._torsions = protein, rollout, atoms, torsions
        self._start_positions = protein.frame_positions(protein.backbone, atoms)
        self._particles = len(self._start_positions)
        self._residues = len(protein.backbone)
        # three atoms a residue do not fit one vector per particle where a residue is one particle
        self._columns = -(-3 * self._residues // self._particles)
        self._slots = rollout.settings.max_context - 1
        self.identity = {
            "id_protein": _digest(
                protein.sequence, protein.residue_types, protein.residue_index, protein.chain_index, protein.bonded
            ),
            "id_start": _digest(self._start_positions, protein.backbone),
            "id_weights": _digest(weights_id),
            "id_settings": _digest(rollout.stride, atoms, torsions, rollout.settings),
        }
        self._context: weakref.ref[mm.Context] | None = None
        self._held = -1  # token of the history in the rollout's memory; -1: none that can be relied upon
        self._last: np.ndarray | None = None  # positions committed with that token
        self._warned = False
        self._add_variables(rollout.seeds[0])
        self._add_computations()

    def _add_variables(self, seed: int) -> None:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; it must lie in [0, 2^63)")
        for name in ("armed", "fresh", "slot", "count", "offset", "token", "count_next", "offset_next", "token_next"):
            self.addGlobalVariable(name, 0)
        self.addGlobalVariable("seed_low", seed % 2**32)
        self.addGlobalVariable("seed_high", seed // 2**32)
        for name, value in self.identity.items():
            self.addGlobalVariable(name, value)
        for name in ("x_next", "x_last"):
            self.addPerDofVariable(name, 0)
        for frame in ("start", "drawn", "first", *(f"ring{slot}" for slot in range(self._slots))):
            for column in range(self._columns):
                self.addPerDofVariable(f"{frame}_{column}", 0)
        self._stage("start", self._protein.backbone)

    def _add_computations(self) -> None:
        self.addComputePerDof("x", "select(armed, x_next, 1/armed)")
        self.addComputePerDof("v", "0")
        self.beginIfBlock("armed > 0")
        self.addComputePerDof("x_last", "x_next")
        for name in ("count", "offset", "token"):
            self.addComputeGlobal(name, f"{name}_next")
        self.beginIfBlock("fresh > 0")
        for column in range(self._columns):
            self.addComputePerDof(f"first_{column}", f"start_{column}")
        self.endBlock()
        for slot in range(self._slots):
            self.beginIfBlock(f"slot = {slot}")
            for column in range(self._columns):
                self.addComputePerDof(f"ring{slot}_{column}", f"drawn_{column}")
            self.endBlock()
        self.addComputeGlobal("armed", "0")
        self.endBlock()

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

    @property
    def frame_particles(self) -> int:
        """Atoms of a frame."""
        return self._particles

    def history(self) -> History:
        """Where the history stands."""
        get = self.getGlobalVariableByName
        seed = int(get("seed_high")) * 2**32 + int(get("seed_low"))
        return History(int(get("count")), int(get("offset")), int(get("token")), seed)

    def step(self, steps: int) -> None:
        """Draw and commit `steps` frames.

        Parameters
        ----------
        steps : int
            At least 0; a float is accepted if it is whole.
        """
        for _ in range(whole_number(steps)):
            self._advance()

    def _advance(self) -> None:
        context = self._context() if self._context is not None else None
        if context is None:
            raise RuntimeError("this StarMDIntegrator is bound to no Context: use StarMDSimulation, or call bind(context)")
        self.require_identity()
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
        token = _digest(history, new, backbone)
        if fresh is not None:
            self._stage("start", fresh)
        self._stage("drawn", backbone)
        self.setPerDofVariableByName("x_next", new)
        for name, value in (
            ("fresh", fresh is not None),
            ("slot", history.count % self._slots),
            ("count_next", history.count + 1),
            ("offset_next", history.offset),
            ("token_next", token),
        ):
            self.setGlobalVariableByName(name, float(value))
        try:
            self.setGlobalVariableByName("armed", 1)
            super().step(1)
        finally:
            self.setGlobalVariableByName("armed", 0)
        self._last, self._held = new, token

    def _synchronise(self, history: History, positions: np.ndarray) -> np.ndarray | None:
        """Bring the rollout's memory to `history`, or return the backbone [N, 3, 3] a new history starts from."""
        if history.token == 0:
            return self._backbone_at(positions)
        if self._held != history.token or self._rollout.seeds != (history.seed,):
            self._held = -1
            self._rollout.seeds = (history.seed,)
            self._last = np.array(self.getPerDofVariableByName("x_last"))
            if np.array_equal(positions, self._last):
                self._restore(history)
        if self._last is None or not np.array_equal(positions, self._last):
            return self._backbone_at(positions)
        return None

    def _restore(self, history: History) -> None:
        from openmm_starmd.rollout import kept_frames

        numbers = kept_frames(history.count, self._rollout.settings.max_context)
        frames = {
            number: _as_replica(self._fetch(f"ring{(number - 1) % self._slots}" if number else "first"))
            for number in numbers
        }
        self._rollout.restore(frames, history.count, history.offset)

    def _backbone_at(self, positions: np.ndarray) -> np.ndarray:
        """N, CA, C [N, 3, 3] of the positions [atoms, 3] that someone set; nm."""
        self._rollout.seeds = (self.seed,)
        if self._atoms == "ca":
            backbone = self._fetch("start")
            if not np.array_equal(backbone[:, 1], positions):
                raise ValueError(CA_ONLY)
            return backbone
        backbone = self._protein.backbone_from_frame(positions, self._atoms)
        bonds = np.linalg.norm(np.diff(backbone, axis=1), axis=-1).max(axis=-1)  # [N]
        if bonds.max() > _BROKEN_BOND:
            residue = int(bonds.argmax())
            raise ValueError(
                f"{self._protein.residue_label(residue)} is torn: its N-CA or CA-C distance is {10 * bonds[residue]:.1f} Å "
                "in the positions that were set. Give positions in the order of simulation.topology, in nm"
            )
        return backbone

    def accept_positions(self, positions: np.ndarray) -> None:
        """Raise a ValueError if no history can start from `positions` [atoms, 3], nm."""
        if positions.shape != (self._particles, 3):
            raise ValueError(
                f"positions have shape {positions.shape}, but a frame has {self._particles} atoms (atoms={self._atoms!r}). "
                "The constructor has set positions already; simulation.setPositions() also takes the input's full set"
            )
        if not np.isfinite(positions).all():
            raise ValueError(f"the position of atom {int((~np.isfinite(positions)).any(1).argmax())} is not finite")
        if self._atoms == "ca" and not np.array_equal(positions, self._fetch("start")[:, 1]):
            if not np.array_equal(positions, np.array(self.getPerDofVariableByName("x_last"))):
                raise ValueError(CA_ONLY)

    def stage_start(self, backbone: np.ndarray) -> None:
        """Keep `backbone` [N, 3, 3], nm, for the history that starts when the CA positions are set to its own."""
        self._stage("start", backbone)

    def forget_history(self) -> None:
        """Start a new history at the next step, without using a random number twice."""
        self.setGlobalVariableByName("token", 0)

    def require_identity(self) -> None:
        """Raise a ValueError if the variables were loaded from a simulation of something else."""
        wrong = [what for name, what in IDENTITY.items() if self.getGlobalVariableByName(name) != self.identity[name]]
        if wrong:
            raise ValueError(
                f"this was saved by a simulation with another {', another '.join(wrong)}. Build the StarMDSimulation from "
                "the same input file, weights and settings, then load"
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
                "every atom is at the origin: context.reinitialize() drops positions. Use preserveState=True, or set them"
            )
        return positions

    def _stage(self, frame: str, backbone: np.ndarray) -> None:
        """Write N, CA, C [N, 3, 3] to the variables of `frame`."""
        padded = np.zeros((self._columns * self._particles, 3))
        padded[: 3 * self._residues] = backbone.reshape(-1, 3)
        for column, values in enumerate(padded.reshape(self._columns, self._particles, 3)):
            self.setPerDofVariableByName(f"{frame}_{column}", values)

    def _fetch(self, frame: str) -> np.ndarray:
        """N, CA, C [N, 3, 3] from the variables of `frame`."""
        columns = [np.array(self.getPerDofVariableByName(f"{frame}_{column}")) for column in range(self._columns)]
        return np.concatenate(columns)[: 3 * self._residues].reshape(-1, 3, 3)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(UNCOPIABLE)

    def __copy__(self) -> NoReturn:
        raise TypeError(UNCOPIABLE)

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError(UNCOPIABLE)


CA_ONLY = (
    "CA positions alone do not tell where a history starts: give the input's full positions to "
    "simulation.setPositions(), or use atoms='backbone'"
)
UNCOPIABLE = (
    "a StarMD simulation cannot be copied or pickled, for it holds a network and a Context: save it with "
    "simulation.saveCheckpoint() and load that into a simulation made from the same input"
)


def whole_number(steps: Any) -> int:
    """`steps` as an int >= 0, or a ValueError."""
    try:
        whole = int(steps)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole != steps or whole < 0:
        raise ValueError(f"steps is {steps!r}; it must be a whole number, at least 0")
    return whole


def in_unit(value: Any, of: unit.Unit) -> Any:
    """A Quantity, or a bare number or array already in `of`, as bare."""
    return value.value_in_unit(of) if unit.is_quantity(value) else value


def _as_replica(backbone: np.ndarray) -> torch.Tensor:
    """Backbone [N, 3, 3] as the batch of one, [1, N, 3, 3], that a rollout takes."""
    import torch

    return torch.from_numpy(np.array(backbone, dtype=np.float64))[None]


def _digest(*parts: Any) -> int:
    """Digest of 52 bits, never 0, which a double holds exactly."""
    hasher = hashlib.sha256()
    for part in parts:
        data = np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hasher.digest()[:8], "little") % (2**52 - 1) + 1
