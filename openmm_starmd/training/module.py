"""The Lightning module: gradients of a step that many processes share, optimiser, schedule, averaged weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from openmm_starmd.devices import warn_of_tf32
from openmm_starmd.model.network import Network
from openmm_starmd.training.average import Average
from openmm_starmd.training.lightning_import import lightning
from openmm_starmd.training.loader import RankBatch
from openmm_starmd.training.objective import objective_sums, weighted
from openmm_starmd.training.optimizer import make_optimizer, matrices, on_this_device
from openmm_starmd.training.settings import OptimizerSettings, Recipe


def learning_rate_factor(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Factor on the learning rate at `step` of `steps`."""
    if step < settings.warmup:
        return 0.01 + 0.99 * step / settings.warmup
    progress = min(1.0, (step - settings.warmup) / max(1, steps - settings.warmup))
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress))


def average_decay(step: int, settings: OptimizerSettings) -> float:
    """Decay of the averaged weights after an optimiser step that `step` others came before."""
    return min(settings.ema, (1 + step) / (10 + step))


class StarMDModule(lightning.LightningModule):
    """Trains a network; its averaged weights are what is released.

    A step's loss is the sum over all frames that count, of all batches of all processes, over their common number. So
    neither the number of processes nor how frames are spread over batches changes what is learned.

    Parameters
    ----------
    network : Network
    recipe : Recipe

    Attributes
    ----------
    average : Average
        From the start of training on.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        # under FSDP the strategy does this, inside its own wrappers
        self.network.checkpoint_blocks = recipe.checkpointing
        self.recipe = recipe
        self._decayed = matrices(network)
        self.names = ["loss", *(f"loss/{name}" for name, _ in recipe.objective.weights), "gradient_norm", "tokens"]
        self.average: Average | None = None
        self._restored: dict[str, Any] | None = None
        self._totals = torch.zeros(len(self.names), dtype=torch.float64)
        self._steps = 0

    def on_train_start(self) -> None:
        """Restore or begin the average, now that the strategy has placed the parameters."""
        if self.device.type == "cuda":
            warn_of_tf32()
        root = self.trainer.model
        self.average = Average(root if isinstance(root, FullyShardedDataParallel) else self)
        self._totals = self._totals.to(self.device)
        self._begin_step()
        if self._restored is not None:
            self.average.load(self._restored["average"])
            self._totals.copy_(self._restored["totals"])
            self._steps = self._restored["steps"]
            self._restored = None

    def training_step(self, part: RankBatch, index: int) -> Tensor:
        """Part of the step's loss that falls to one batch."""
        settings = self.recipe.objective
        if part.first:
            # filled in on the device: a copied number would be waited for
            counted = torch.full((), part.counted, dtype=torch.float64, device=self.device)
            self._count = self._sum_over_processes(counted).clamp(min=1)
        sums, _ = objective_sums(self.network, part.batch, settings)
        total = weighted(sums, settings) / self._count.to(torch.float32)
        with torch.no_grad():
            terms = [total, *(sums[name] / self._count for name, _ in settings.weights), total.new_zeros(())]
            terms = [*terms, total.new_full((), part.batch.target.numel() * part.batch.features.length)]
            self._step_terms += torch.stack([term.detach().double() for term in terms])
        # what DDP and FSDP take off by averaging over processes, and Lightning by averaging over batches
        return total * (self.trainer.world_size * self.recipe.accumulate)

    def configure_optimizers(self) -> Any:
        """Optimiser and its schedule, stepped once per optimiser step."""
        settings = self.recipe.optimizer
        optimizer = make_optimizer(self.network, settings, self._decayed)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.recipe.steps, settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the norm of the whole gradient, of all shards together under FSDP."""
        root, limit = self.trainer.model, self.recipe.optimizer.gradient_clip
        if isinstance(root, FullyShardedDataParallel):
            norm = root.clip_grad_norm_(limit)
        else:
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self._norm = norm.detach().double()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, then the average moves towards the new weights."""
        super().optimizer_step(*args, **kwargs)
        _begun(self.average).update(average_decay(self.global_step, self.recipe.optimizer))
        terms = self._sum_over_processes(self._step_terms)
        terms[self.names.index("gradient_norm")] = self._norm
        self._totals += terms
        self._steps += 1
        self._begin_step()

    def means(self) -> dict[str, float]:
        """Losses, gradient norm and tokens per step, averaged over the steps since the last call.

        Raises
        ------
        ValueError
            See :meth:`check`.
        """
        found = self.check()
        self._totals.zero_()
        self._steps = 0
        return found

    def check(self) -> dict[str, float]:
        """What :meth:`means` will say, or a ValueError if one of the figures is not a finite number."""
        found = dict(zip(self.names, (self._totals / max(1, self._steps)).tolist(), strict=True))
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(
                f"training step {self.global_step}: {', '.join(bad)} is not a finite number. Check the data, and begin "
                "a new run with a lower learning rate (optimizer.learning_rate), --from the last weights if you like"
            )
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the average, the log's running means and what must not change on resumption."""
        checkpoint["starmd"] = {
            "average": _begun(self.average).full(),
            "totals": self._totals.cpu(),
            "steps": self._steps,
            "batches_per_step": self.trainer.world_size * self.recipe.accumulate,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what :meth:`on_save_checkpoint` added until the strategy is ready."""
        self._restored = checkpoint["starmd"]
        # a run may go on where there is no GPU, or begin to have one
        on_this_device(checkpoint.get("optimizer_states", ()), self.trainer.strategy.root_device.type == "cuda")

    def _begin_step(self) -> None:
        self._step_terms = torch.zeros_like(self._totals)

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self.trainer.world_size > 1 else values


def _begun(average: Average | None) -> Average:
    """The average, or an error if training has not begun."""
    if average is None:
        raise RuntimeError("there is no average of the weights before training starts")
    return average
