"""The Lightning module: optimiser, schedule, averaged weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openmm_starmd.data.windows import Batch
from openmm_starmd.model.network import Network
from openmm_starmd.training.extra import lightning
from openmm_starmd.training.objective import ObjectiveSettings, objective


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam with warm-up and cosine decay.

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
    """

    learning_rate: float = 1e-3
    warmup: int = 200
    final: float = 0.1
    gradient_clip: float = 1.0
    ema: float = 0.999


def learning_rate_factor(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Factor on the learning rate at `step` of `steps`."""
    if step < settings.warmup:
        return 0.01 + 0.99 * step / settings.warmup
    progress = min(1.0, (step - settings.warmup) / max(1, steps - settings.warmup))
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * progress))


class StarMDModule(lightning.LightningModule):
    """Trains a network; its averaged weights are what is released.

    Parameters
    ----------
    network : Network
    objective_settings : ObjectiveSettings
    optimizer_settings : OptimizerSettings
    steps : int
        Length of the run, for the cosine.
    """

    def __init__(
        self,
        network: Network,
        objective_settings: ObjectiveSettings,
        optimizer_settings: OptimizerSettings,
        steps: int,
    ) -> None:
        super().__init__()
        self.network = network
        # a module of its own, so that Lightning's checkpoints carry the average along
        self.averaged = Network(network.config)
        self.averaged.load_state_dict(network.state_dict())
        self.averaged.requires_grad_(False)
        self.objective_settings, self.optimizer_settings, self.steps = objective_settings, optimizer_settings, steps

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one batch."""
        total, terms = objective(self.network, batch, self.objective_settings)
        self.log("loss", total, prog_bar=True)
        self.log_dict({f"loss/{name}": value for name, value in terms.items()})
        return total

    def configure_optimizers(self) -> Any:
        """Adam and its schedule, stepped once per batch."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.optimizer_settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.steps, self.optimizer_settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, then the average moves towards the new weights."""
        super().optimizer_step(*args, **kwargs)
        step = self.global_step
        decay = min(self.optimizer_settings.ema, (1 + step) / (10 + step))
        update_average(self.averaged, self.network, decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch; Lightning does not know how to."""
        return Batch(
            batch.features.to(device),
            batch.rigids.to(device),
            batch.torsions.to(device),
            batch.torsion_mask.to(device),
            batch.torsion_symmetric.to(device),
            batch.stride.to(device),
            batch.target.to(device),
            batch.key,
        )


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters, in place."""
    pairs = zip(averaged.parameters(), network.parameters(), strict=True)
    averages, values = (list(group) for group in zip(*pairs, strict=True))
    torch._foreach_lerp_(averages, values, 1 - decay)
