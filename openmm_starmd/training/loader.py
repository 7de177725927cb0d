"""Which batches a process works on: those of its rank, step by step, from any step on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from openmm_starmd.data.batches import Batch
from openmm_starmd.data.windows import WindowDataset
from openmm_starmd.model.elastic import reference_modes
from openmm_starmd.training.lightning_import import lightning


class RankBatch:
    """One batch with its place in the training step.

    Not a dataclass: Lightning's FSDP precision would try to take it apart.

    Parameters
    ----------
    batch : Batch
    counted : int
        Frames that count in all batches that this process adds up in this step.
    first : bool
        Whether this is the first of them.
    """

    def __init__(self, batch: Batch, counted: int, first: bool) -> None:
        self.batch, self.counted, self.first = batch, counted, first

    def to(self, device: torch.device | str) -> RankBatch:
        """The same on `device`."""
        return RankBatch(self.batch.to(device), self.counted, self.first)

    def pin_memory(self) -> RankBatch:
        """The same in page-locked memory; what the data loader asks for where there is a GPU."""
        return RankBatch(self.batch.pin_memory(), self.counted, self.first)


class RankBatches(IterableDataset[RankBatch]):
    """The batches of one process, without end.

    Step n consists of the batches (n, 0), (n, 1), ... of the dataset. Process r of w works on r, r + w, r + 2w, ..., so
    that any number of processes that divides the batches of a step sees the same ones.

    Parameters
    ----------
    dataset : WindowDataset
    start : int
        First step.
    accumulate : int
        Batches of one process per step.
    rank, world : int
        Number of this process, and of processes.
    modes : bool
        Whether batches bring the modes of their reference, which networks with an elastic prior need.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        start: int,
        accumulate: int,
        rank: int = 0,
        world: int = 1,
        modes: bool = False,
    ) -> None:
        self.dataset, self.start, self.accumulate, self.rank, self.world = dataset, start, accumulate, rank, world
        self.modes = modes

    def __iter__(self) -> Iterator[RankBatch]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in itertools.count(self.start * self.accumulate + first, stride):
            step, place = divmod(number, self.accumulate)
            plans = [self.dataset.plan(step, p * self.world + self.rank) for p in range(self.accumulate)]
            batch = self.dataset.read(plans[place])
            if self.modes:
                batch = replace(batch, features=replace(batch.features, modes=reference_modes(batch.features)))
            yield RankBatch(batch, sum(plan.counted for plan in plans), place == 0)


class RankData(lightning.LightningDataModule):
    """Hands the trainer the batches of its process.

    Parameters
    ----------
    dataset : WindowDataset
    start : int
        First step.
    accumulate : int
    workers : int
        Processes that read ahead; 0 reads in the training process.
    modes : bool
        As for :class:`RankBatches`.
    """

    def __init__(
        self, dataset: WindowDataset, start: int, accumulate: int, workers: int = 0, modes: bool = False
    ) -> None:
        super().__init__()
        self.dataset, self.start, self.accumulate, self.workers = dataset, start, accumulate, workers
        self.modes = modes

    def train_dataloader(self) -> DataLoader[RankBatch]:
        """Batches from the first step on; the trainer says when to stop."""
        trainer: Any = self.trainer
        place = trainer.global_rank, trainer.world_size
        batches = RankBatches(self.dataset, self.start, self.accumulate, *place, self.modes)
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def transfer_batch_to_device(self, batch: RankBatch, device: torch.device, dataloader_idx: int) -> RankBatch:
        """Move a batch; Lightning does not know how to."""
        return batch.to(device)
