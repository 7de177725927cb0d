"""Calibration: a short classical run on the side tells how widely a protein moves, next to what its weights expect."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from openmm import unit

from openmm_starmd.classical.settings import ClassicalOptions
from openmm_starmd.geometry.rigid import rigids_from_backbone
from openmm_starmd.model.calibration import find_amplitude
from openmm_starmd.quantities import in_unit

if TYPE_CHECKING:
    from openmm_starmd.classical.model import ClassicalModel
    from openmm_starmd.propagators import Present
    from openmm_starmd.simulation import StarMDSimulation

LEAST = 5.0
"""Shortest calibration, ps."""
INTERVAL = 1.0
"""Time between the frames that are looked at, ps, as nearly as the time step allows."""
_CHUNK = 50  # steps between chances for Python to notice a Ctrl-C


@dataclass(frozen=True, repr=False)
class Calibration:
    """How widely a protein moves, next to what the elastic prior of its weights expects of it.

    Attributes
    ----------
    amplitude : float
        Factor on all displacements that the prior expects.
    log_amplitude : float
        Its natural logarithm, which frames are drawn with.
    error : float
        Standard error of that.
    picoseconds : float
        Of classical MD.
    frames : int
        Looked at.
    """

    amplitude: float
    log_amplitude: float
    error: float
    picoseconds: float
    frames: int

    def __repr__(self) -> str:
        low, high = (math.exp(self.log_amplitude + sign * self.error) for sign in (-1, 1))
        return (
            f"<Calibration: amplitude {self.amplitude:.2f} ({low:.2f} to {high:.2f}), from {self.frames} frames of "
            f"{self.picoseconds:g} ps of classical MD>"
        )


def calibrated_length(simulation: StarMDSimulation, duration: Any) -> float:
    """Length of a calibration in ps.

    Parameters
    ----------
    simulation : StarMDSimulation
    duration : Quantity or float
        Bare numbers in ps.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the simulation cannot be calibrated, or not by so short a run; says why.
    """
    simulation.integrator.require_no_segment()
    if getattr(simulation.integrator.propagator, "elastic", None) is None:
        name = getattr(simulation.integrator.propagator, "name", "") or "this propagator"
        raise ValueError(
            f"{name} has no elastic prior: isotropic weights have no amplitude to set. Leave the calibration out, or "
            "use weights with prior 'elastic'"
        )
    try:
        picoseconds = float(in_unit(duration, unit.picosecond))
    except (TypeError, ValueError) as error:
        raise ValueError(f"duration is {duration!r}; give a time, or a number of ps") from error
    if not LEAST <= picoseconds < float("inf"):
        raise ValueError(
            f"a calibration of {picoseconds:g} ps: give at least {LEAST:g} ps, of which 20 tell well enough"
        )
    return picoseconds


def calibrate(
    simulation: StarMDSimulation,
    duration: Any = 20.0,
    *,
    minimize: int | None = 100,
    equilibrate: float = 2.0,
    on_frame: Callable[[int, int], None] | None = None,
    **settings: Unpack[ClassicalOptions],
) -> Calibration:
    """Find the amplitude of a simulation's protein; the simulation stays as it is.

    Parameters
    ----------
    simulation : StarMDSimulation
        Of weights with an elastic prior.
    duration : Quantity or float
        Of classical MD from the current frame, bare numbers in ps; at least 5.
    minimize : int or None
        Most iterations of the minimiser before; 0 for none, None to convergence.
    equilibrate : float
        ps of dynamics after that, before frames are looked at.
    on_frame : callable, optional
        Called with the number of frames there are and that of all.
    **settings
        As for :meth:`openmm_starmd.simulation.StarMDSimulation.classical`.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        As :func:`calibrated_length` raises it.
    RuntimeError
        If the dynamics have blown up.
    """
    picoseconds = calibrated_length(simulation, duration)
    propagator: Any = simulation.integrator.propagator
    present = simulation.integrator.present()
    model = simulation.classical_model(**settings)
    seed = hashlib.sha256(f"{present.seed} {present.number} calibration".encode()).digest()
    model.enter(
        present.backbone,
        present.torsions,
        minimize=minimize,
        equilibrate=equilibrate,
        seed=int.from_bytes(seed[:7], "little"),
    )
    steps = max(1, round(INTERVAL / model.settings.timestep))
    interval = steps * model.settings.timestep
    backbones = _record(model, steps, math.ceil(picoseconds / interval - 1e-6), on_frame)
    reference = rigids_from_backbone(torch.from_numpy(np.ascontiguousarray(_reference(present))))
    found = find_amplitude(
        rigids_from_backbone(torch.from_numpy(backbones)),
        interval,
        propagator.rollout.features.with_reference(reference),
        propagator.elastic,
        max_context=propagator.memory,
    )
    return Calibration(
        math.exp(found.log), found.log, found.error, round(interval * (found.frames - 1), 6), found.frames
    )


def _record(model: ClassicalModel, steps: int, count: int, on_frame: Callable[[int, int], None] | None) -> np.ndarray:
    """N, CA, C of the present all-atom frame and of `count` more, each `steps` time steps on, [count + 1, N, 3, 3]."""
    backbones = [model.backbone()]
    for number in range(1, count + 1):
        for done in range(0, steps, _CHUNK):
            model.simulation.integrator.step(min(_CHUNK, steps - done))
        backbones.append(model.backbone())
        if not np.isfinite(backbones[-1]).all():
            raise RuntimeError(
                "classical MD has blown up: positions are not finite. The simulation stays as it was. Minimise more "
                "(minimize=None), or take a shorter timestep"
            )
        if on_frame is not None:
            on_frame(number, count)
    return np.array(backbones)


def _reference(present: Present) -> np.ndarray:
    """N, CA, C [N, 3, 3], nm, of the structure whose modes frames are drawn along."""
    if present.reference is not None:
        return present.reference[0]
    return present.backbone if present.fresh else present.kept([0])[0]
