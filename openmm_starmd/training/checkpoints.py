"""What a training run keeps on disk: log, weights, checkpoint."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
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

CHECKPOINT = "last.ckpt"


class Checkpointing(Callback):
    """Writes a row of the log, the averaged weights and the checkpoint when each is due.

    The order makes any moment a good one to be killed: the log's rows and the weights of a step are on disk before the
    checkpoint of that step is renamed into place, and a resumed run cuts the log back to its checkpoint.

    Parameters
    ----------
    folder : Path
        Of the run.
    recipe : Recipe
    config : ModelConfig
        Of the weights.
    log : RunLog
    start : int
        Steps done before.
    validate : callable, optional
        From a network with the averaged weights to figures for the log; called by the first process only.
    progress : bool
        Show a bar.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        config: ModelConfig,
        log: RunLog,
        start: int,
        validate: Callable[[Network], Mapping[str, float]] | None,
        progress: bool,
    ) -> None:
        self.folder, self.recipe, self.config, self.run_log = folder, recipe, config, log
        self.step, self.validate, self.progress = start, validate, progress

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
        if self.validate is not None and (last or self.step % self.recipe.validation.every == 0):
            averaged = pl_module.average.full()
            if trainer.is_global_zero:
                row.update(self.validate(network_of(averaged, self.config)))
        if row and trainer.is_global_zero:
            self.run_log.write(self.step, row)
            for logger in trainer.loggers:
                logger.log_metrics(row, self.step)
        if last or self.step % self.recipe.save_every == 0:
            pl_module.check()  # before weights and checkpoint are replaced by numbers that are not finite
            averaged = pl_module.average.full() if averaged is None else averaged
            if trainer.is_global_zero:
                save_weights(self.folder / "weights", network_of(averaged, self.config), self.config)
            self._save(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar."""
        self.bar.close()

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


class RunLog:
    """Rows of ``log.csv``, each written and flushed at once.

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
            write_text(self.path, ",".join(self.columns) + "\n")
            return
        lines = whole_lines(self.path)
        if not lines or next(csv.reader(lines[:1])) != self.columns:
            raise ValueError(f"{self.path} is not the log of this run: its columns are not {', '.join(self.columns)}")
        cut_lines(self.path, 1 + sum(int(line.split(",", 1)[0]) <= step for line in lines[1:]))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; columns without a value stay empty."""
        row = [str(step), *(repr(values[name]) if name in values else "" for name in self.columns[1:])]
        with self.path.open("a") as file:
            file.write(",".join(row) + "\n")
