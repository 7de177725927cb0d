"""The judge of the averaged weights during training: denoising, short rollouts, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network
from openmm_starmd.training.denoising import MEAN, Denoising, DenoisingTest, Error, rmse
from openmm_starmd.training.rollouts import roll_out, rollout_columns, trials
from openmm_starmd.training.settings import ValidationSettings

LOSS = "validation_loss"
"""Column of ``log.csv``: :attr:`openmm_starmd.training.denoising.Denoising.loss`."""
TABLE = ("protein", "stride", "tau", "rmse", "last_frame")
"""Columns of ``validation.csv`` behind the step: fields of :class:`openmm_starmd.training.denoising.Error`."""
SAME = 1e-3
"""Share by which an error of one and the same MD may differ from machine to machine."""


class Validation:
    """Proteins that are not trained on, with MD, for weights to be judged by.

    Parameters
    ----------
    proteins : sequence of ProteinData
    settings : ValidationSettings
    config : ModelConfig
        Of the weights.
    device : str or torch.device
        Where they run.

    Attributes
    ----------
    denoising : DenoisingTest or None
        None if the settings ask for no windows.
    columns : list of str
        Figures of :meth:`judge`.

    Raises
    ------
    ValueError
        If a protein's MD is too short, or has no frames at a stride that is to be looked at.
    """

    def __init__(
        self,
        proteins: Sequence[ProteinData],
        settings: ValidationSettings,
        config: ModelConfig,
        device: str | torch.device,
    ) -> None:
        self.device = device
        wanted = settings.denoising
        self.denoising = DenoisingTest(proteins, wanted, config, device) if wanted.windows else None
        self.trials = trials(proteins, settings, config) if settings.frames else []
        self.columns = [*([LOSS] if self.denoising else []), *rollout_columns(self.trials)]

    def judge(self, network: Network) -> tuple[dict[str, float], list[dict[str, float | str]]]:
        """Figures for a row of ``log.csv``, and the rows of ``validation.csv``."""
        figures: dict[str, float] = {}
        rows: list[dict[str, float | str]] = []
        if self.denoising is not None:
            found = self.denoising.measure(network)
            figures[LOSS] = found.loss
            rows = [vars(error) for error in (*found.errors, *found.means)]
        for trial in self.trials:
            figures.update(roll_out(network, trial, self.device))
        return figures, rows

    def check(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Raise a ValueError if rows of ``validation.csv`` were measured on other frames than would be now."""
        if self.denoising is None or not rows:
            return
        before = {
            (row["protein"], float(row["stride"])): float(row["last_frame"]) for row in rows if row["protein"] != MEAN
        }
        now = {(w.protein.name, w.stride): rmse(w.last_frame, w.truth) for w in self.denoising.windows}
        wrong = before.keys() ^ now.keys()
        wrong |= {key for key in before.keys() & now.keys() if not math.isclose(before[key], now[key], rel_tol=SAME)}
        if wrong:
            names = ", ".join(sorted({name for name, _ in wrong}))
            raise ValueError(
                f"the MD to validate on is not what the run began with ({names}), so that losses before and after "
                "would not compare: give the same data, or start a new run (--from its weights, if you like)"
            )


def table(errors: Sequence[Error]) -> str:
    """RMSE in Å of one protein, or of the mean, for people: a line a stride, a column a τ."""
    taus = sorted({error.tau for error in errors})
    lines = [f"{'stride (ps)':>11}  {'last frame':>10}" + "".join(f"  {f'τ {tau:g}':>7}" for tau in taus)]
    for stride in sorted({error.stride for error in errors}):
        row = {error.tau: error for error in errors if error.stride == stride}
        last = next(iter(row.values())).last_frame
        cells = "".join(f"  {row[tau].rmse:7.3f}" if tau in row else " " * 9 for tau in taus)
        lines.append(f"{stride:>11g}  {last:>10.3f}{cells}")
    return "\n".join(lines)


def errors_at(rows: Sequence[Mapping[str, str]], step: int) -> Denoising:
    """What rows of ``validation.csv`` say of the weights of one step."""
    found = [
        Error(row["protein"], *(float(row[name]) for name in TABLE[1:]))
        for row in rows
        if int(row["step"]) == step and row["protein"] != MEAN
    ]
    return Denoising(tuple(found))
