"""Devices, processes and nodes that a training runs on, and how Lightning shares the work among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch.distributed.fsdp import MixedPrecision

from openmm_starmd.model.network import Block
from openmm_starmd.training.lightning_import import lightning
from openmm_starmd.training.settings import Recipe

STRATEGIES = ("auto", "ddp", "fsdp")
LOGGERS = ("csv", "tensorboard")


@dataclass(frozen=True)
class Parallelism:
    """Devices and processes of a training run.

    None of them changes what is learned, but for rounding, as long as the number of batches per step stays.

    Attributes
    ----------
    accelerator : str
        ``"cpu"``, ``"gpu"``, or ``"auto"``: a GPU where there is one.
    devices : int or "auto"
        Processes per node: GPUs, or processes on the CPU; ``"auto"`` for all GPUs, or one process on the CPU.
    nodes : int
    strategy : str
        ``"ddp"`` (each process holds all weights), ``"fsdp"`` (each a part of them; GPUs only), or ``"auto"``: ddp
        where there are several processes.
    workers : int
        Processes per process that read data ahead.
    logger : str
        ``"csv"``, or ``"tensorboard"`` beside it.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    workers: int = 0
    logger: str = "csv"

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise ValueError(f"accelerator is {self.accelerator!r}; choose 'auto', 'cpu' or 'gpu'")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise ValueError("accelerator is 'gpu', but torch sees no CUDA device: use 'auto' or 'cpu'")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; choose one of {', '.join(STRATEGIES)}")
        if self.logger not in LOGGERS:
            raise ValueError(f"logger is {self.logger!r}; choose one of {', '.join(LOGGERS)}")
        if self.devices != "auto" and (not isinstance(self.devices, int) or self.devices < 1):
            raise ValueError(f"devices is {self.devices!r}; give a number, or 'auto' for all GPUs")
        if self.nodes < 1 or self.workers < 0:
            raise ValueError(f"nodes is {self.nodes} and workers {self.workers}; nodes must be at least 1, workers 0")
        if self.strategy == "fsdp" and not self.on_gpu:
            raise ValueError("strategy is 'fsdp', which needs GPUs; use 'ddp' on CPUs")
        if self.on_gpu and isinstance(self.devices, int) and self.devices > torch.cuda.device_count():
            raise ValueError(f"devices is {self.devices}, but torch sees {torch.cuda.device_count()} CUDA devices")

    @property
    def on_gpu(self) -> bool:
        """Whether training runs on GPUs."""
        return self.accelerator != "cpu" and torch.cuda.is_available()

    @property
    def processes_per_node(self) -> int:
        """Processes on each node."""
        if isinstance(self.devices, int):
            return self.devices
        return torch.cuda.device_count() if self.on_gpu else 1


def mixed_precision(recipe: Recipe, on_gpu: bool) -> bool:
    """Whether attention and edges run in bf16."""
    return recipe.precision == "bf16" or (recipe.precision == "auto" and on_gpu)


def make_trainer(parallelism: Parallelism, recipe: Recipe, output: Path, callbacks: list[Any], done: int) -> Any:
    """Lightning's trainer for a run.

    Parameters
    ----------
    parallelism : Parallelism
    recipe : Recipe
    output : Path
        Folder of the run.
    callbacks : list of Callback
    done : int
        Steps done before.

    Returns
    -------
    lightning.Trainer
    """
    plugins: list[Any] = []
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # a requeued job resumes from the run's own checkpoint; Lightning would write a second one, and not whole
        plugins.append(SLURMEnvironment(auto_requeue=False))
    logger: Any = False
    if parallelism.logger == "tensorboard":
        try:
            logger = TensorBoardLogger(output, name="", version="tensorboard", purge_step=done + 1)
        except ModuleNotFoundError as error:
            raise ImportError("the logger tensorboard needs TensorBoard: pip install tensorboard") from error
    return lightning.Trainer(
        max_steps=recipe.steps,
        accelerator="gpu" if parallelism.on_gpu else "cpu",
        devices=parallelism.processes_per_node,
        num_nodes=parallelism.nodes,
        strategy=_strategy(parallelism, recipe),
        precision="bf16-mixed" if mixed_precision(recipe, parallelism.on_gpu) else "32-true",
        accumulate_grad_batches=recipe.accumulate,
        plugins=plugins,
        callbacks=callbacks,
        logger=logger,
        default_root_dir=output,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _strategy(parallelism: Parallelism, recipe: Recipe) -> Strategy | str:
    if parallelism.strategy == "auto" and parallelism.processes_per_node * parallelism.nodes == 1:
        return "auto"
    if parallelism.strategy == "fsdp":
        # Autocast chooses what runs in bf16. FSDP's own casting would take coordinates and gradients with it.
        single = MixedPrecision(param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32)
        return FSDPStrategy(
            auto_wrap_policy={Block},
            mixed_precision=single,
            activation_checkpointing_policy={Block} if recipe.checkpointing else None,
            state_dict_type="full",
        )
    # which inputs a batch has, and with them which weights get a gradient, differs between processes
    return DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True)
