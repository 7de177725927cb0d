"""What decides a training run: the recipe, its presets, and the JSON files it is kept in and read from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from openmm_starmd.data.windows import WindowSettings
from openmm_starmd.model.config import ModelConfig, preset

PRECISIONS = ("auto", "32", "bf16")

T = TypeVar("T")


LOSSES = (
    "translation",
    "rotation",
    "translation_score",
    "rotation_score",
    "torsion",
    "fape",
    "sidechain_fape",
    "clash",
    "distance",
    "coordinates",
    "distance_low",
)
"""Losses that :func:`openmm_starmd.training.objective.loss_terms` knows."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """How training frames are noised and how losses are weighed.

    Attributes
    ----------
    tau_min : float
        Smallest diffusion time.
    log_uniform : float
        Share of τ drawn log-uniformly from [tau_min, 1]; the rest is uniform.
    context_probability, context_tau : float
        Contextual noise of the clean copies: how often, and the largest upper end of its uniform τ; the upper end
        itself is drawn per window.
    jitter_probability, jitter_translation, jitter_rotation : float
        Perturbation of the clean copies that the network is not told of; upper ends in nm and rad.
    geometry_tau : float
        FAPE, distances and clashes count for τ up to this only. At higher noise the clean frame is truly uncertain, its
        best estimate is a mean over structures and need not look like one.
    weights : tuple of (str, float)
        Name and weight of each loss, of :data:`LOSSES`.
    high_tau, high_steps, high_share : float, int, float
        What little data tell of τ above `high_tau` is learned soon, and more steps learn them by heart: after the first
        `high_steps` steps only `high_share` of the τ drawn above it stay there, and the others are drawn
        log-uniformly below it. 0 steps for no such end.
    """

    tau_min: float = 5e-4
    log_uniform: float = 0.8
    context_probability: float = 0.75
    context_tau: float = 0.02
    jitter_probability: float = 0.5
    jitter_translation: float = 0.01
    jitter_rotation: float = 0.03
    geometry_tau: float = 0.02
    weights: tuple[tuple[str, float], ...] = (
        ("translation", 1.0),
        ("rotation", 0.5),
        ("distance", 0.5),
        ("fape", 0.5),
        ("torsion", 0.1),
        ("clash", 1.0),
    )
    high_tau: float = 0.05
    high_steps: int = 0
    high_share: float = 0.15

    def __post_init__(self) -> None:
        wrong = self.high_steps > 0 and not self.tau_min < self.high_tau < 1
        if wrong or self.high_steps < 0 or not 0 <= self.high_share <= 1:
            raise ValueError(
                f"high_tau is {self.high_tau}, high_steps {self.high_steps} and high_share {self.high_share}: the "
                "first must lie between tau_min and 1, the second must not be negative, the third lies in [0, 1]"
            )
        if not 0 < self.tau_min < 1:
            raise ValueError(f"tau_min is {self.tau_min}; it must lie between 0 and 1")
        for name in ("log_uniform", "context_probability", "context_tau", "jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        pairs = [tuple(item) if isinstance(item, list | tuple) else (item,) for item in self.weights]
        if not pairs or any(len(pair) != 2 or not isinstance(pair[1], int | float) for pair in pairs):
            raise ValueError(f'weights is {self.weights!r}; give pairs of a name and a number, as [["fape", 0.5], ...]')
        names = [str(name) for name, _ in pairs]
        unknown = [name for name in names if name not in LOSSES]
        if unknown or len(set(names)) < len(names):
            what = f"unknown losses {', '.join(unknown)}" if unknown else "a loss twice"
            raise ValueError(f"weights has {what}: it may name each of {', '.join(LOSSES)} once")


# The paper's losses and weights (table 10).
PAPER_OBJECTIVE = ObjectiveSettings(
    tau_min=0.01,
    log_uniform=0.0,
    context_tau=0.1,
    jitter_probability=0.0,
    geometry_tau=1.0,
    weights=(
        ("translation_score", 1.0),
        ("rotation_score", 0.5),
        ("torsion", 0.5),
        ("fape", 0.5),
        ("sidechain_fape", 0.5),
        ("coordinates", 0.25),
        ("distance_low", 0.25),
    ),
)


def recipe_objective(form: str) -> ObjectiveSettings:
    """Settings that go with a preset, ``"mini"`` or ``"paper"``."""
    return PAPER_OBJECTIVE if form == "paper" else ObjectiveSettings()


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam with warm-up and cosine decay, both per optimiser step.

    Attributes
    ----------
    learning_rate : float
    warmup : int
        Steps of linear growth from 0.01 of the learning rate.
    final : float
        The cosine ends at this fraction.
    gradient_clip : float
        Largest norm of the gradient.
    ema : float
        Decay of the averaged weights, reached after about 10 / (1 - ema) steps.
    weight_decay : float
        Decoupled from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101): each step takes this share, times
        the learning rate, off the weight matrices; norms, biases and scales are left alone.
    """

    learning_rate: float = 1e-3
    warmup: int = 200
    final: float = 0.1
    gradient_clip: float = 1.0
    ema: float = 0.999
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be a number not below 0")


@dataclass(frozen=True)
class DenoisingSettings:
    """What :mod:`openmm_starmd.training.denoising` gives a network to denoise.

    Attributes
    ----------
    taus : tuple of float
        Diffusion times of the frames to be estimated.
    strides : tuple of float
        ps, one for each bin of strides: a figure at one stride compares between data sets, a mean over a bin does not.
        Those are measured that the network knows and the MD has frames for.
    windows : int
        Windows of a protein at each stride, at most, spread over its replicas; 0 measures nothing.
    frames : int
        Frames in a window, at most, and no more than the network's history and one. All but the first are targets.
    seed : int
        Of windows and noise.
    """

    taus: tuple[float, ...] = (0.001, 0.004, 0.015, 0.06, 0.2, 0.6)
    strides: tuple[float, ...] = (2.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
    windows: int = 2
    frames: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.taus or not all(0 < tau <= 1 for tau in self.taus) or len(set(self.taus)) < len(self.taus):
            raise ValueError(f"taus is {self.taus}; give different diffusion times, above 0 and at most 1")
        strides = set(self.strides)
        if not strides or not all(0 < stride < math.inf for stride in strides) or len(strides) < len(self.strides):
            raise ValueError(f"strides is {self.strides}; give different strides in ps, above 0")
        if self.windows < 0 or self.frames < 2:
            raise ValueError(f"windows is {self.windows} and frames {self.frames}: at least 0 and 2 are needed")


@dataclass(frozen=True)
class ValidationSettings:
    """How the averaged weights are judged during training, by MD of proteins that are not trained on.

    Attributes
    ----------
    proteins : tuple of str
        ``NAME``, or ``NAME:R`` for one replica; none by default. The caller of training provides their data.
    every : int
        Training steps between validations; one more at the end.
    denoising : DenoisingSettings
        The validation loss, see :class:`openmm_starmd.training.denoising.Denoising`: with ``windows`` above 0 the
        weights that it is lowest for are kept. 0 by default, as in runs that older editions began.
    frames : int
        Frames of a short rollout of each protein, beside that; 0 for none.
    stride : float
        Of the rollouts, ps; 0 for the model's default.
    """

    proteins: tuple[str, ...] = ()
    every: int = 1000
    frames: int = 20
    stride: float = 0.0
    denoising: DenoisingSettings = field(default_factory=lambda: DenoisingSettings(windows=0))

    def __post_init__(self) -> None:
        if self.every < 1 or self.frames < 0 or self.frames == 1 or self.stride < 0:
            raise ValueError(
                f"validation every {self.every} steps, {self.frames} frames {self.stride:g} ps apart: steps must be at "
                "least 1, frames at least 2, or 0 for no rollouts, and the stride not negative"
            )
        if self.proteins and not self.frames and not self.denoising.windows:
            raise ValueError(
                f"nothing to validate on {', '.join(self.proteins)}: denoising.windows and frames are both 0"
            )


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run.

    Attributes
    ----------
    model : ModelConfig
    windows : WindowSettings
    objective : ObjectiveSettings
    optimizer : OptimizerSettings
    validation : ValidationSettings
    steps : int
        Optimiser steps.
    accumulate : int
        Batches that each process adds up for a step. A step consists of processes x `accumulate` batches.
    precision : str
        ``"32"``, ``"bf16"`` (attention and edges only; geometry and losses stay in float32), or ``"auto"``: bf16 on a
        GPU.
    checkpointing : bool
        Compute the inside of each block again for the gradient instead of keeping it: less memory, more time.
    seed : int
        Of the initial weights; windows and noise have ``windows.seed``.
    save_every : int
        Steps between checkpoints.
    log_every : int
        Steps between rows of the log, each the mean of the steps since the row before.
    start_from : str
        Name of the weights that training began from; empty for random ones.
    """

    model: ModelConfig = field(default_factory=lambda: preset("mini"))
    windows: WindowSettings = field(default_factory=WindowSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    steps: int = 20_000
    accumulate: int = 1
    precision: str = "auto"
    checkpointing: bool = False
    seed: int = 0
    save_every: int = 500
    log_every: int = 50
    start_from: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")


def recipe_for(name: str) -> Recipe:
    """The recipe of a preset, ``"mini"`` or ``"paper"``."""
    model = preset(name)
    # one window of each protein and stride takes a few per cent of the time of training; rollouts take more
    validation = ValidationSettings(frames=0, denoising=DenoisingSettings(windows=1))
    if name == "mini":
        # no protein rules what is learned, rollouts begin with the start structure, and the reference is not the answer
        windows = WindowSettings(
            share_max=0.05, cold_probability=0.1, deformation_probability=0.6, deviation_dropout=0.2
        )
        return Recipe(model=model, windows=windows, validation=validation)
    windows = WindowSettings(
        stride_min=model.stride_min,
        stride_max=model.stride_max,
        focus_probability=0.0,
        gap_probability=0.0,
        tokens=3072,  # one window of 8 frames of the longest chains trained on
    )
    optimizer = OptimizerSettings(learning_rate=2e-4)
    return Recipe(
        model=model,
        windows=windows,
        objective=recipe_objective(name),
        optimizer=optimizer,
        validation=validation,
    )


def recipe_from_dict(values: Mapping[str, Any], base: Recipe | None = None, source: str = "the recipe") -> Recipe:
    """A recipe with some settings replaced.

    Parameters
    ----------
    values : mapping
        As ``recipe.json`` holds them; whatever is missing stays as in `base`.
    base : Recipe, optional
        The preset `mini` by default.
    source : str
        Where the values come from, for errors.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError
        Naming each unknown setting, or one whose value is of the wrong kind.
    """
    unknown: list[str] = []
    model = values.get("model")
    if isinstance(model, Mapping) and model.get("prior") == "isotropic" and "elastic" in model:
        # numbers that nothing is made of
        values = {**values, "model": {name: value for name, value in model.items() if name != "elastic"}}
    recipe = _filled(Recipe() if base is None else base, values, "", unknown, source)
    if unknown:
        raise ValueError(
            f"{source} has unknown settings {', '.join(unknown)}: recipe.json of any training run shows those there are"
        )
    return recipe


def read_recipe(path: str | os.PathLike[str], base: Recipe | None = None) -> Recipe:
    """Read a JSON file of settings; see :func:`recipe_from_dict`."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return recipe_from_dict(values, base, str(path))


def differences(first: Recipe, second: Recipe) -> list[str]:
    """Settings in which two recipes differ, as ``name: first -> second``."""
    values = asdict(first), asdict(second)
    if first.model.prior == second.model.prior == "isotropic":
        # numbers that nothing is made of; their defaults may change from version to version
        for one in values:
            del one["model"]["elastic"]
    return _differences(*values, "")


def _filled(base: T, values: Any, prefix: str, unknown: list[str], source: str) -> T:
    """`base`, a dataclass, with `values` in place of its own; names of unknown ones are added to `unknown`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{source}: {prefix.rstrip('.') or 'a recipe'} must be a mapping of names to values")
    known = {f.name for f in fields(base)}  # type: ignore[arg-type]
    unknown.extend(f"{prefix}{name}" for name in values if name not in known)
    changed = {}
    for name, value in values.items():
        if name in known:
            current = getattr(base, name)
            if is_dataclass(current):
                changed[name] = _filled(current, value, f"{prefix}{name}.", unknown, source)
            else:
                changed[name] = _typed(current, value, f"{prefix}{name}", source)
    try:
        return replace(base, **changed)  # type: ignore[type-var]
    except ValueError as error:
        where = f" {prefix.rstrip('.')}:" if prefix else ""
        raise ValueError(f"{source}:{where} {error}") from error


def _typed(current: Any, value: Any, name: str, source: str) -> Any:
    """`value` as the type of `current`, or a ValueError."""
    if isinstance(current, tuple) and isinstance(value, list | tuple):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(current):
        raise ValueError(f"{source}: {name} is {value!r}, but must be of the kind of {current!r}")
    return value


def _differences(first: dict[str, Any], second: dict[str, Any], prefix: str) -> list[str]:
    found = []
    for name, value in first.items():
        if isinstance(value, dict):
            found += _differences(value, second[name], f"{prefix}{name}.")
        elif value != second[name]:
            found.append(f"{prefix}{name}: {value!r} -> {second[name]!r}")
    return found
