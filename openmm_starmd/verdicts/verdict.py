"""Verdicts: a frame is handed to classical MD for a short time, and what becomes of it is judged.

Two things are looked at. First the frame itself (:mod:`openmm_starmd.analysis.defects`), for a minimisation hides a
torn chain or a D-amino acid. Then what the force field makes of it: energy, how far minimisation moves it, forces that
remain, and a segment of dynamics, whose drift is compared with what the surrogate itself does in that time.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import openmm as mm
from openmm import unit

from openmm_starmd.classical.settings import ClassicalOptions, ClassicalSettings
from openmm_starmd.quantities import keywords_of
from openmm_starmd.verdicts.judging import HeavyFrame, Judge
from openmm_starmd.verdicts.limits import LIMITS, TRAINING_MD, Limits, Spread
from openmm_starmd.verdicts.report import Verdict
from openmm_starmd.verdicts.settings import VerdictSettings

if TYPE_CHECKING:
    from openmm_starmd.classical.model import ClassicalModel
    from openmm_starmd.simulation import StarMDSimulation

# what a judge measures of a model takes seconds, and is the same for all of its frames
_JUDGES: weakref.WeakKeyDictionary[Any, Judge] = weakref.WeakKeyDictionary()


@keywords_of(ClassicalSettings)
def validate(
    simulation: StarMDSimulation,
    duration: Any = 10.0,
    *,
    minimize: int | None = 100,
    seed: int = 0,
    spread: Spread | None = None,
    limits: Limits = LIMITS,
    stop_if_broken: bool = False,
    **classical: Unpack[ClassicalOptions],
) -> Verdict:
    """Judge the present frame of a simulation by a classical segment on the side.

    Nothing of the simulation changes: positions, time, step count, history and random state are the same bits after.

    Parameters
    ----------
    simulation : StarMDSimulation
        Not inside a classical segment.
    duration : Quantity or float
        Of the segment, bare numbers in ps; 0 only minimises.
    minimize : int or None
        Most iterations of the minimiser; None to convergence.
    seed : int
        Of the velocities and the thermostat.
    spread : Spread, optional
        What the drift is compared with; by default the history's own frames, or the MD of the training proteins where
        the history is too short.
    limits : Limits
    stop_if_broken : bool
        Spare a frame that inspection finds broken the minimisation and the segment; their figures are nan then.
    **classical
        Force field, solvent, platform and all else that ``simulation.classical()`` takes; one model is built for each
        combination, at its first use.

    Returns
    -------
    Verdict

    Raises
    ------
    ValueError
        If an argument does not fit or the force field does not know a residue. A frame that the force field refuses is
        no error but a verdict.
    """
    if simulation.integrator.segment is not None:
        raise ValueError("a classical segment is running, which a verdict would disturb: leave it first")
    settings = VerdictSettings(
        duration=duration,
        minimize=minimize,
        seed=seed,
        spread=spread or own_spread(simulation),
        limits=limits,
        stop_if_broken=stop_if_broken,
    )
    frame = present_frame(simulation)
    # the Reference platform has one random stream for all Contexts, which a checkpoint of the simulation holds too
    state = simulation.context.createCheckpoint()
    try:
        model = simulation.classical_model(**classical)
        return _judge_of(model).judge(model, frame, settings)
    finally:
        mm.Context.loadCheckpoint(simulation.context, state)


def judge(
    model: ClassicalModel,
    frame: HeavyFrame,
    duration: Any = 10.0,
    *,
    minimize: int | None = 100,
    seed: int = 0,
    spread: Spread = TRAINING_MD,
    limits: Limits = LIMITS,
    stop_if_broken: bool = False,
) -> Verdict:
    """Judge any frame of the protein of `model`; see :func:`validate`."""
    settings = VerdictSettings(
        duration=duration, minimize=minimize, seed=seed, spread=spread, limits=limits, stop_if_broken=stop_if_broken
    )
    return _judge_of(model).judge(model, frame, settings)


def _judge_of(model: ClassicalModel) -> Judge:
    """The judge of a model's frames, made at first use."""
    found = _JUDGES.get(model)
    if found is None:
        found = _JUDGES[model] = Judge(model)
    return found


def frame_at(model: ClassicalModel, positions: np.ndarray) -> HeavyFrame:
    """The frame of given heavy atoms [heavy atoms, 3], nm, with the torsions they have."""
    protein = model.protein
    mapping = protein.backmap("heavy")
    positions = np.asarray(positions, dtype=np.float64)
    return HeavyFrame(positions[mapping.backbone], mapping.measure(positions), positions, placed=False)


def present_frame(simulation: StarMDSimulation) -> HeavyFrame:
    """What a simulation has in its Context, read without changing anything."""
    protein, present = simulation.protein, simulation.integrator.present()
    state = simulation.context.getState(positions=True)
    heavy = protein.frame_positions(present.backbone, "heavy")
    placed = True
    if simulation.atoms == "heavy":
        own = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        # a network without trained torsions has the input's side chains carried rigidly
        placed, heavy = bool(np.allclose(own, heavy, rtol=0, atol=1e-6)), own
    moment = state.getTime().value_in_unit(unit.picosecond)
    return HeavyFrame(
        present.backbone, None if placed else present.torsions, heavy, placed, simulation.currentStep, moment
    )


def own_spread(simulation: StarMDSimulation, least: int = 4) -> Spread:
    """Spread of the frames in a simulation's history; that of the training proteins' MD if there are under `least`."""
    frames = simulation.integrator.kept_history()
    if len(frames) < least:
        return TRAINING_MD
    stride = simulation.stride.value_in_unit(unit.picosecond)
    source = f"the surrogate's last {len(frames)} frames"
    return Spread.from_frames(np.array(frames), stride, source)
