"""How training frames are noised and losses weighed: the settings of the objective, and the presets' own."""

from __future__ import annotations

from dataclasses import dataclass

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

    def __post_init__(self) -> None:
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
