"""What a training run keeps on disk: log, weights, checkpoint."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from openmm_starmd.files.cutting import cut_lines, whole_lines
from openmm_starmd.files.writing import replacing, write_text
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import save_weights
from openmm_starmd.training.lightning_import import Callback
from openmm_starmd.training.module import StarMDModule
from openmm_starmd.training.settings import Recipe
from openmm_starmd.training.validation import LOSS, TABLE, Validation, errors_at, table

CHECKPOINT = "last.ckpt"
WEIGHTS, LAST = "weights", "last"
"""Folders of a run: the weights to use, and beside weights that the validation loss chose the newest."""
LOG, VALIDATION = "log.csv", "validation.csv"


class Checkpointing(Callback):
    """Writes rows of the logs, the averaged weights and the checkpoint when each is due.

    The order makes any moment a good one to be killed: the logs' rows and the weights of a step are on disk before the
    checkpoint of that step is renamed into place, and a resumed run cuts the logs back to its checkpoint. Which weights
    are the best so far is read from the log, so it is cut back with it.

    Parameters
    ----------
    folder : Path
        Of the run.
    recipe : Recipe
    config : ModelConfig
        Of the weights.
    names : sequence of str
        What the module means of a step, for the log.
    start : int
        Steps done before.
    validation : Validation, optional
        Judges the averaged weights; asked by the first process only.
    progress : bool
        Show a bar.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        config: ModelConfig,
        names: Sequence[str],
        start: int,
        validation: Validation | None,
        progress: bool,
    ) -> None:
        self.folder, self.recipe, self.config = folder, recipe, config
        self.step, self.validation, self.progress = start, validation, progress
        self.run_log = RunLog(folder / LOG, [*names, "learning_rate", *(validation.columns if validation else [])])
        self.table = RunLog(folder / VALIDATION, TABLE) if validation and validation.denoising else None

    def begin(self) -> None:
        """Cut the logs back to the checkpoint. Called by the first process only, before training.

        Raises
        ------
        ValueError
            If a log is not of this run, or the MD to validate on is another than it was.
        """
        self.run_log.begin(self.step)
        if self.table is not None and self.validation is not None:
            self.table.begin(self.step)
            self.validation.check(self.table.read())

    def judge_start(self, network: Network) -> None:
        """Judge the weights that training begins from. Called by the first process only, before training.

        Parameters
        ----------
        network : Network
            Stays as it is.
        """
        if self.table is not None:
            self._keep(network_of(network.state_dict(), self.config), {})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the bar."""
        hidden = not (self.progress and trainer.is_global_zero)
        self.bar = tqdm(total=self.recipe.steps, initial=self.step, unit="step", disable=hidden)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the last batch of a step: what is due at this step."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        self.bar.update(1)
        last = self.step == self.recipe.steps
        row: dict[str, float] = {}
        if last or self.step % self.recipe.log_every == 0:
            row = self._means(trainer, pl_module)
        averaged: dict[str, Tensor] | None = None
        if self.validation is not None and (last or self.step % self.recipe.validation.every == 0):
            averaged = pl_module.average.full()
            if trainer.is_global_zero:
                row = self._keep(network_of(averaged, self.config), row)
        elif row and trainer.is_global_zero:
            self.run_log.write(self.step, row)
        if row and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(row, self.step)
        # weights that were just kept must not be of a step that a killed run would forget
        judged = self.table is not None and self.step % self.recipe.validation.every == 0
        if last or judged or self.step % self.recipe.save_every == 0:
            pl_module.check()  # before weights and checkpoint are replaced by numbers that are not finite
            averaged = pl_module.average.full() if averaged is None else averaged
            if trainer.is_global_zero:
                newest = self.folder / (WEIGHTS if self.table is None else LAST)
                save_weights(newest, network_of(averaged, self.config), self.config)
            self._save(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar."""
        self.bar.close()

    def _keep(self, network: Network, row: dict[str, float]) -> dict[str, float]:
        """Judge weights, write the logs' rows, and keep them if they are the best so far; `row` with the figures."""
        assert self.validation is not None
        figures, errors = self.validation.judge(network)
        row = row | figures
        before = lowest(self.run_log.read())
        if self.table is not None:
            self.table.write_rows(self.step, errors)
        self.run_log.write(self.step, row)
        # rows are cut back to the checkpoint, so these weights need no mark of their own
        if self.table is not None and row[LOSS] < (before[1] if before else math.inf):
            save_weights(self.folder / WEIGHTS, network, self.config)
        return row

    def _means(self, trainer: Any, module: StarMDModule) -> dict[str, float]:
        """Mean losses since the last row, and the learning rate."""
        means = module.means()
        self.bar.set_postfix_str(f"loss {means['loss']:.4f}", refresh=False)
        return {**means, "learning_rate": trainer.optimizers[0].param_groups[0]["lr"]}

    def _save(self, trainer: Any) -> None:
        """Replace the checkpoint, whole or not at all."""
        path = self.folder / CHECKPOINT
        # every process gathers its part of the state; only the first writes, and its path is the one that counts
        with replacing(path) if trainer.is_global_zero else nullcontext(path) as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)


def network_of(state: Mapping[str, Tensor], config: ModelConfig) -> Network:
    """A network with the weights that :meth:`openmm_starmd.training.average.Average.full` gave."""
    network = Network(config)
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    return network.eval().requires_grad_(False)


def lowest(rows: Sequence[Mapping[str, str]]) -> tuple[int, float] | None:
    """Step and validation loss of the kept weights: the first of the lowest in rows of ``log.csv``; None without one.

    Parameters
    ----------
    rows : sequence of mapping
        As :meth:`RunLog.read` gives them.
    """
    judged = [(float(row[LOSS]), int(row["step"])) for row in rows if row.get(LOSS)]
    finite = [(loss, step) for loss, step in judged if math.isfinite(loss)]
    if not finite:
        return None
    loss, step = min(finite)
    return step, loss


class RunLog:
    """Rows of a CSV file, each written and flushed at once.

    A row holds full precision, so that two runs can be compared to the digit, and nothing of the clock.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        ``step`` is put in front of them.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, ["step", *columns]

    def begin(self, step: int) -> None:
        """Keep the rows up to `step`, drop later ones and a torn last line; start the file if there is none."""
        if step == 0 or not self.path.exists():
            write_text(self.path, _line(self.columns))
            return
        lines = whole_lines(self.path)
        if not lines or next(csv.reader(lines[:1])) != self.columns:
            raise ValueError(f"{self.path} is not the log of this run: its columns are not {', '.join(self.columns)}")
        cut_lines(self.path, 1 + sum(int(line.split(",", 1)[0]) <= step for line in lines[1:]))

    def read(self) -> list[dict[str, str]]:
        """All rows, as text."""
        return list(csv.DictReader(whole_lines(self.path)))

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Append a row; columns without a value stay empty."""
        self.write_rows(step, [values])

    def write_rows(self, step: int, rows: Sequence[Mapping[str, float | str]]) -> None:
        """Append several rows of one step."""
        lines = [_line([step, *(values.get(name, "") for name in self.columns[1:])]) for values in rows]
        with self.path.open("a") as file:
            file.write("".join(lines))


def summary(run: Path) -> str | None:
    """Which weights a run kept and how they denoise, for people; None for a run without a validation loss."""
    if not (run / VALIDATION).exists():
        return None
    kept = lowest(RunLog(run / LOG, []).read())
    if kept is None:
        return "no weights were kept: no validation loss was finite"
    step, loss = kept
    found = errors_at(RunLog(run / VALIDATION, []).read(), step)
    return (
        f"kept the weights of step {step}, with the lowest validation loss, {loss:.4f}: RMSE of the next frame "
        f"{math.exp(loss):.3f} times that of the last frame, in the geometric mean. RMSE (Å), mean over proteins:\n"
        f"{table(found.means)}"
    )


def _line(values: Sequence[float | str]) -> str:
    """A line of a CSV file; numbers with all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([v if isinstance(v, str) else repr(v) for v in values])
    return text.getvalue()
