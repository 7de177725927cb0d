"""Fit the numbers of the elastic prior to MD of training proteins, and judge them on proteins left out.

    python -m benchmarks.derive.elastic_prior --data ../shared/data/md ../shared/data/md200 benchmarks/data \\
        benchmarks/data/training --left-out-data ../shared/data/md200 benchmarks/data/pool

Maximum likelihood of the next frame given true histories (model/elastic.py), every mode of every target one
observation, with an amplitude a protein that is free in the fit. A regression on the looseness of its network then
reads the amplitude off a structure. Proteins that choose weights (``choose`` of benchmarks/data/split.json) judge
whether that is better than one amplitude for all. With 57 proteins it explains 0.62 of the variance of the amplitudes,
each left out in turn, and takes the judges' log innovations down from 0.53 to 0.40 (root mean square), while their
likelihood a coordinate, which stiff modes decide, is level (-2.944, for all -2.948). Three in ten references are
deformed along soft modes, as in training.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import write_json
from benchmarks.reference_augmentation import SPLIT, left_out, not_trained_on
from openmm_starmd import __version__
from openmm_starmd.analysis.network_models import neighbourhoods
from openmm_starmd.data.batches import Batch
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.data.windows import WindowDataset, WindowSettings
from openmm_starmd.geometry.so3 import log_map
from openmm_starmd.model.elastic import REACH, ElasticModel, elastic_modes, looseness, statistics
from openmm_starmd.model.elastic_settings import ElasticSettings

FREE = [
    f.name for f in fields(ElasticSettings) if f.name not in ("stiffness_min", "amplitude", "looseness", "widening")
]
"""What is fitted; all positive, so by their logarithms."""
START = ElasticSettings(
    fast=0.012, fast_power=0.99, fast_floor=1e-5, fast_rate=0.25, fast_rate_power=0.96, slow=0.02, slow_power=0.45,
    slow_limit=30.0, slow_rate=0.004, slow_rate_power=0.2, constant=1.0, turn_fast=0.02, turn_fast_rate=1.0,
    turn_slow=0.03, turn_slow_rate=0.02, turn_constant=1.0, stiffness_min=0.01, amplitude=(),
)  # fmt: skip
"""Where the fit begins."""
TURNS = 0.3
"""Weight of the likelihood of rotations, whose 3 N coordinates share one variance."""
SHRINK = 0.02
"""Weight of the squared amplitudes of single proteins."""
RIDGE = 3.0
"""Proteins' worth of evidence that the slope of the amplitude is zero."""


class Structures:
    """Modes of reference structures, kept."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Tensor, Tensor, Tensor]] = {}

    def model(self, batch: Batch, numbers: Any, amplitude: Tensor | float) -> ElasticModel:
        """The elastic model of a batch's reference with `numbers`, which may carry gradients."""
        reference = batch.features.reference.map(lambda x: x.double())
        alphas, bonded = reference.translations.numpy(), batch.features.bonded.numpy()
        key = alphas.tobytes()
        if key not in self._known:
            modes = [torch.from_numpy(part) for part in elastic_modes(alphas, bonded)]
            self._known[key] = modes[0], modes[1], torch.from_numpy(neighbourhoods(alphas, bonded, REACH))
        stiffness, vectors, around = self._known[key]
        squares = vectors.unflatten(0, (len(alphas), 3)).square().sum(1)
        parts = statistics(stiffness.clamp(min=numbers.stiffness_min), numbers, amplitude)
        return ElasticModel(
            reference.map(lambda x: x[None]),
            around[None],
            vectors[None],
            squares[None],
            *(part[None] for part in parts),
        )


def likelihood(batch: Batch, model: ElasticModel) -> tuple[Tensor, Tensor, Tensor] | None:
    """What the targets of a batch were worth; None for a batch without targets.

    Returns
    -------
    tuple of Tensor [targets]
        Negative log-likelihood per coordinate, the same of rotations, and the log of the mean squared innovation over
        the variance that was expected.
    """
    rigids = batch.rigids.map(lambda x: x.double())
    gaps = batch.stride.double()
    clock = torch.cat([torch.zeros_like(gaps[:, :1]), gaps[:, 1:]], dim=1).cumsum(1)
    found = []
    for number in range(1, gaps.shape[1]):
        chosen = batch.target[:, number]
        if not chosen.any():
            continue
        history = rigids.map(lambda x: x[chosen, :number])  # noqa: B023
        ages = clock[chosen, number : number + 1] - clock[chosen, :number]
        none = torch.zeros_like(ages)
        expected = model.expected(history, ages, none, none)
        anchor = history.map(lambda x: x[:, -1:])
        shift = rigids.translations[chosen, number : number + 1] - anchor.translations
        along = model.coordinates(expected.axes, shift) - expected.mean.flatten(-2) @ model.vectors
        ratio = along.square() / expected.variance
        turn = log_map(anchor.rotations.transpose(-1, -2) @ rigids.rotations[chosen, number : number + 1])
        turned = (turn - expected.turn_mean).square().mean((-1, -2)) / expected.turn_variance
        found.append(
            (
                0.5 * (expected.variance.log() + ratio).mean((-1, -2)),
                0.5 * (expected.turn_variance.log() + turned).mean(-1),
                ratio.mean((-1, -2)).log(),
            )
        )
    if not found:
        return None
    whole, turns, logs = (torch.cat(part) for part in zip(*found, strict=True))
    return whole, turns, logs


def numbers_of(logs: Tensor, stiffness_min: float) -> SimpleNamespace:
    """Numbers as :func:`openmm_starmd.model.elastic.statistics` takes them."""
    return SimpleNamespace(**dict(zip(FREE, logs.exp(), strict=True)), stiffness_min=stiffness_min)


def windows(proteins: Sequence[ProteinData], seed: int, deform: float, count: int) -> WindowDataset:
    """Windows to fit or judge on."""
    settings = WindowSettings(
        stride_max=200.0, focus_probability=0.4, tokens=450, full_probability=0.4, deformation_probability=deform,
        seed=seed, share_max=max(0.05, 1 / len(proteins)),
    )  # fmt: skip
    return WindowDataset(proteins, settings, count)


def fit(proteins: Sequence[ProteinData], steps: int, stiffness_min: float) -> tuple[Tensor, dict[str, float]]:
    """Logarithms of the numbers, and the amplitude of each protein."""
    data, known = windows(proteins, 11, 0.3, steps), Structures()
    logs = torch.tensor([math.log(getattr(START, name)) for name in FREE], dtype=torch.float64, requires_grad=True)
    place = {protein.name: number for number, protein in enumerate(proteins)}
    amplitudes = torch.zeros(len(place), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logs, amplitudes], lr=0.05)
    recent: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * min(1.0, (steps - step) / (0.6 * steps))
        plan = data.plan(step)
        batch = data.read(plan)
        amplitude = amplitudes[place[plan.protein.name]]
        found = likelihood(batch, known.model(batch, numbers_of(logs, stiffness_min), amplitude))
        if found is None:
            continue
        loss = found[0].mean() + TURNS * found[1].mean() + SHRINK * amplitude.square()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([logs, amplitudes], 1.0)
        optimizer.step()
        recent.append(float(found[0].mean().detach()))
        if step % 100 == 99:
            print(step + 1, f"{np.mean(recent[-100:]):.3f}", logs.detach().exp().numpy().round(4).tolist(), flush=True)
    values = amplitudes.detach().numpy()
    return logs.detach(), {name: float(values[number]) for name, number in place.items()}


def regression(looseness_of: Mapping[str, float], amplitudes: Mapping[str, float]) -> tuple[list[float], float]:
    """Intercept and slope of the amplitude, and the share of its variance explained, each protein left out in turn."""
    rows = np.array([[1.0, looseness_of[name]] for name in amplitudes])
    target = np.array(list(amplitudes.values()))
    penalty = RIDGE * np.diag([0.0, *rows[:, 1:].var(0)])

    def solved(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.solve(x.T @ x + penalty, x.T @ y)

    left = [target[i] - rows[i] @ solved(np.delete(rows, i, 0), np.delete(target, i)) for i in range(len(rows))]
    return [float(value) for value in solved(rows, target)], float(1 - np.var(left) / np.var(target))


def looseness_of(protein: ProteinData, stiffness_min: float) -> float:
    """Looseness of a protein's structure."""
    found = protein.read_features()
    alphas = found.reference.translations.double().numpy()
    stiffness = torch.from_numpy(elastic_modes(alphas, found.bonded.numpy())[0])
    return float(looseness(stiffness.clamp(min=stiffness_min), len(alphas)))


def judge(proteins: Sequence[ProteinData], settings: ElasticSettings, count: int) -> dict[str, dict[str, float]]:
    """Likelihood and squared innovations of each protein."""
    result = {}
    for protein in proteins:
        known, found = Structures(), []
        offset = 0.0
        if settings.amplitude:
            seen = np.clip(looseness_of(protein, settings.stiffness_min), *settings.looseness)
            offset = float(settings.amplitude[0] + settings.amplitude[1] * seen)
        data = windows([protein], 5, 0.0, count)
        for number in range(count):
            batch = data[number]
            values = likelihood(batch, known.model(batch, settings, offset))
            if values is not None:
                found.append([float(value.mean()) for value in values])
        nll, turns, logs = np.array(found).mean(0)
        result[protein.name] = {"nll": float(nll), "turns": float(turns), "log_innovation": float(logs)}
    return result


def main() -> None:
    """Fit, judge, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--left-out-data", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--json", type=Path, default=RESULTS / "elastic_prior.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    split = json.loads(SPLIT.read_text())
    pool = open_data(arguments.data, not_trained_on(split))
    chosen = {item["name"] for item in split["choose"]}
    judged = left_out(arguments.left_out_data, split)
    stiffness_min = ElasticSettings().stiffness_min
    logs, amplitudes = fit(pool, arguments.steps, stiffness_min)
    known = {protein.name: looseness_of(protein, stiffness_min) for protein in pool}
    seen = tuple(round(value, 3) for value in (min(known.values()), max(known.values())))
    values = {name: float(f"{value:.4g}") for name, value in zip(FREE, logs.exp().tolist(), strict=True)}
    mean = float(np.mean(list(amplitudes.values())))
    plain = ElasticSettings(**values, amplitude=(mean, 0.0), looseness=seen)
    slopes, explained = regression(known, amplitudes)
    read = ElasticSettings(**values, amplitude=tuple(round(s, 4) for s in slopes), looseness=seen)
    content: dict[str, Any] = {
        "version": __version__,
        "proteins": len(pool),
        "settings": asdict(read),
        "amplitudes": {name: round(value, 3) for name, value in amplitudes.items()},
        "looseness": {name: round(value, 3) for name, value in known.items()},
        "explained": explained,
        "judged": {
            name: {
                protein: found | {"role": "choose" if protein in chosen else "report"}
                for protein, found in judge(judged, settings, 12).items()
            }
            for name, settings in (
                ("one amplitude for all", plain),
                ("amplitude of each", read),
                ("start of the fit", START),
            )
        },
    }
    write_json(arguments.json, content)
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
