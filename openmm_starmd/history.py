"""A frame history kept in the variables of an OpenMM CustomIntegrator.

OpenMM carries those variables through checkpoints, states and reinitialisation bit by bit, so what lives in them needs
no file format and no rule of its own. A frame is laid into staging variables that nothing else reads, and committed by
ONE call into C++, which moves positions, history, time and step count together; an interrupt therefore finds either
the old frame or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openmm as mm

IDENTITY = {
    "id_protein": "another protein",
    "id_start": "another start structure",
    "id_weights": "other weights or another propagator",
    "id_settings": "another stride, other atoms, steps or max_context",
}
NO_ANGLE = 9.0
"""Stands for a χ angle that is not there, since a NaN does not survive an XML file."""


@dataclass(frozen=True)
class History:
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


class HistoryIntegrator(mm.CustomIntegrator):
    """Puts given positions in place, one frame a step, and remembers the frames a rollout needs to go on.

    Parameters
    ----------
    stride : float
        Step size, ps.
    residues : int
        N.
    particles : int
        Of the System; at least N.
    max_context : int
        Frames remembered: frame 0, and a ring of the newest ``max_context - 1``.
    seed : int
        In [0, 2^63).
    identity : dict of str to int
        Digests by the names in `IDENTITY`: what a history belongs to.
    lasting : bool
        Whether a reference structure, N, CA, C and χ1..4, is remembered beside the frames, which outlasts histories.
    amplitude : bool
        Whether the amplitude of the protein's motion is.

    Notes
    -----
    OpenMM loads checkpoints of integrators with the same variables alone: those of `lasting` and `amplitude` are there
    only where they are asked for, so that what older versions saved goes on loading.
    """

    def __init__(
        self,
        stride: float,
        *,
        residues: int,
        particles: int,
        max_context: int,
        seed: int,
        identity: dict[str, int],
        lasting: bool = False,
        amplitude: bool = False,
    ) -> None:
        super().__init__(stride)
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; it must lie in [0, 2^63)")
        self.identity = identity
        self._residues, self._particles, self._slots = residues, particles, max_context - 1
        self.lasting, self.keeps_amplitude = lasting, amplitude
        # three atoms a residue do not fit one vector per particle where a residue is one particle
        self._columns = -(-3 * residues // particles)
        for name in ("armed", "fresh", "slot", "count", "offset", "token", "count_next", "offset_next", "token_next"):
            self.addGlobalVariable(name, 0)
        self.addGlobalVariable("seed_low", seed % 2**32)
        self.addGlobalVariable("seed_high", seed // 2**32)
        for name, value in identity.items():
            self.addGlobalVariable(name, value)
        for name in ("x_next", "x_last"):
            self.addPerDofVariable(name, 0)
        for frame in ("start", "drawn", "first", *(f"ring{slot}" for slot in range(self._slots))):
            for column in range(self._columns):
                self.addPerDofVariable(f"{frame}_{column}", 0)
        if amplitude:
            self.addGlobalVariable("amplitude", 0)
        if lasting:
            self.addGlobalVariable("renew", 0)
            for name in self._reference_variables():
                for when in ("next", "now"):
                    self.addPerDofVariable(f"{name}_{when}", 0)
        self._add_computations()

    def _add_computations(self) -> None:
        # infinite where a caller in C++ steps without arming: better than a silently frozen protein
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
        if self.lasting:
            self.beginIfBlock("renew > 0")
            for name in self._reference_variables():
                self.addComputePerDof(f"{name}_now", f"{name}_next")
            self.endBlock()
        self.addComputeGlobal("armed", "0")
        self.endBlock()

    def _reference_variables(self) -> list[str]:
        """Names of the variables that hold a reference structure, each of which is there twice: of now, and of next."""
        chi = -(-4 * self._residues // (3 * self._particles))
        return [
            *(f"reference{column}" for column in range(self._columns)),
            *(f"chi{column}" for column in range(chi)),
        ]

    @property
    def max_context(self) -> int:
        """Most frames remembered, frame 0 included."""
        return self._slots + 1

    def history(self) -> History:
        """Where the history stands."""
        get = self.getGlobalVariableByName
        seed = int(get("seed_high")) * 2**32 + int(get("seed_low"))
        return History(int(get("count")), int(get("offset")), int(get("token")), seed)

    def kept(self, numbers: list[int]) -> dict[int, np.ndarray]:
        """Backbones [N, 3, 3], nm, of the frames `numbers`, which must still be in the ring."""
        return {number: self._fetch(f"ring{self._slot(number)}" if number else "first") for number in numbers}

    def committed(self) -> np.ndarray:
        """Positions [particles, 3], nm, of the newest frame of the history."""
        return np.array(self.getPerDofVariableByName("x_last"))

    def stage_start(self, backbone: np.ndarray) -> None:
        """Keep `backbone` [N, 3, 3], nm, as what the next new history starts from."""
        self._stage("start", backbone)

    def staged_start(self) -> np.ndarray:
        """What :meth:`stage_start` was given."""
        return self._fetch("start")

    @property
    def amplitude(self) -> float:
        """Natural logarithm of the factor on the protein's motion; 0 where none is kept."""
        return float(self.getGlobalVariableByName("amplitude")) if self.keeps_amplitude else 0.0

    def set_amplitude(self, amplitude: float) -> None:
        """Set it; a checkpoint brings its own."""
        self.setGlobalVariableByName("amplitude", amplitude)

    def stage_chi(self, chi: np.ndarray) -> None:
        """Keep χ1..4 [N, 4], radians and NaN where there is none, of what the next reference will be, if one lasts."""
        if self.lasting:
            self._put("chi", "next", np.where(np.isnan(chi), NO_ANGLE, chi))

    def staged_chi(self) -> np.ndarray:
        """What :meth:`stage_chi` was given."""
        return self._chi("next")

    def reference(self) -> tuple[np.ndarray, np.ndarray]:
        """N, CA, C [N, 3, 3], nm, and χ1..4 [N, 4], radians, of the reference structure of the frames there are."""
        return self._take("reference", "now", 9).reshape(-1, 3, 3), self._chi("now")

    def _chi(self, when: str) -> np.ndarray:
        chi = self._take("chi", when, 4)
        return np.where(chi == NO_ANGLE, np.nan, chi)

    def commit(
        self,
        history: History,
        positions: np.ndarray,
        backbone: np.ndarray,
        start: np.ndarray | None,
        reference: np.ndarray | None = None,
    ) -> None:
        """Make a frame the state of the Context.

        Parameters
        ----------
        history : History
            As it will be.
        positions : array [particles, 3]
            nm, float64.
        backbone : array [N, 3, 3]
            N, CA, C in nm.
        start : array [N, 3, 3] or None
            Frame 0, where this is the first frame of a new history.
        reference : array [N, 3, 3] or None
            N, CA, C of a new reference structure, which has the χ angles that were staged.
        """
        if start is not None:
            self._stage("start", start)
        self._stage("drawn", backbone)
        if self.lasting:
            self.setGlobalVariableByName("renew", float(reference is not None))
            if reference is not None:
                self._put("reference", "next", reference)
        self.setPerDofVariableByName("x_next", positions)
        self.setGlobalVariableByName("fresh", float(start is not None))
        self.setGlobalVariableByName("slot", self._slot(history.count))
        for name in ("count", "offset", "token"):
            self.setGlobalVariableByName(f"{name}_next", getattr(history, name))
        try:
            self.setGlobalVariableByName("armed", 1)
            mm.CustomIntegrator.step(self, 1)
        finally:
            self.setGlobalVariableByName("armed", 0)

    def forget_history(self) -> None:
        """Start a new history at the next step, without using a random number twice."""
        self.setGlobalVariableByName("token", 0)

    def require_identity(self) -> None:
        """Raise a ValueError if the variables were loaded from a simulation of something else."""
        wrong = [what for name, what in IDENTITY.items() if self.getGlobalVariableByName(name) != self.identity[name]]
        if wrong:
            # what was saved by a script that names no weights has those that were the default then
            other = IDENTITY["id_weights"] in wrong
            hint = " (weights='starmd-mini-v2', if an older version saved it and none were named)" if other else ""
            raise ValueError(
                f"this was saved by a simulation with {', '.join(wrong)}. Build the StarMDSimulation "
                f"from the same input file, weights and settings{hint}, then load"
            )

    def _slot(self, number: int) -> int:
        return (number - 1) % self._slots

    def _stage(self, frame: str, backbone: np.ndarray) -> None:
        """Write N, CA, C [N, 3, 3] to the variables of `frame`."""
        self._write([f"{frame}_{column}" for column in range(self._columns)], backbone)

    def _fetch(self, frame: str) -> np.ndarray:
        """N, CA, C [N, 3, 3] from the variables of `frame`."""
        return self._read([f"{frame}_{column}" for column in range(self._columns)], 9).reshape(-1, 3, 3)

    def _put(self, kind: str, when: str, values: np.ndarray) -> None:
        self._write(self._of_reference(kind, when), values)

    def _take(self, kind: str, when: str, each: int) -> np.ndarray:
        return self._read(self._of_reference(kind, when), each)

    def _of_reference(self, kind: str, when: str) -> list[str]:
        return [f"{name}_{when}" for name in self._reference_variables() if name.startswith(kind)]

    def _write(self, names: list[str], values: np.ndarray) -> None:
        """Lay numbers, some for each residue, into per-particle variables."""
        padded = np.zeros((len(names), self._particles, 3))
        padded.reshape(-1)[: values.size] = values.reshape(-1)
        for name, part in zip(names, padded, strict=True):
            self.setPerDofVariableByName(name, part)

    def _read(self, names: list[str], each: int) -> np.ndarray:
        """What :meth:`_write` laid there, `each` numbers a residue: [N, each]."""
        parts = [np.array(self.getPerDofVariableByName(name)) for name in names]
        return np.concatenate(parts).reshape(-1)[: each * self._residues].reshape(-1, each)
