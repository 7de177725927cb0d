"""On what a training runs: devices, processes and nodes, and how they share the work. Lightning does the sharing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch.distributed.fsdp import MixedPrecision

from openmm_starmd.model.network import Block
from openmm_starmd.training.extra import lightning
from openmm_starmd.training.settings import Recipe

STRATEGIES = ("auto", "ddp", "fsdp")
LOGGERS = ("csv", "tensorboard")


@dataclass(frozen=True)
class Machines:
    """Where a training runs. None of it changes what is learned, but for rounding, if the batches per step stay.

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


def make_trainer(machines: Machines, recipe: Recipe, output: Path, callbacks: list[Any], done: int) -> Any:
    """Lightning's trainer for a run.

    Parameters
    ----------
    machines : Machines
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
        # the run's own checkpoint resumes it; Lightning's would be a second one that nothing here keeps whole
        plugins.append(SLURMEnvironment(auto_requeue=False))
    logger: Any = False
    if machines.logger == "tensorboard":
        try:
            logger = TensorBoardLogger(output, name="", version="tensorboard", purge_step=done + 1)
        except ModuleNotFoundError as error:
            raise ImportError("the logger tensorboard needs TensorBoard: pip install tensorboard") from error
    return lightning.Trainer(
        max_steps=recipe.steps,
        accelerator="gpu" if machines.on_gpu else "cpu",
        devices=machines.processes_per_node,
        num_nodes=machines.nodes,
        strategy=_strategy(machines, recipe),
        precision="bf16-mixed" if mixed_precision(recipe, machines.on_gpu) else "32-true",
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


def _strategy(machines: Machines, recipe: Recipe) -> Strategy | str:
    if machines.strategy == "auto" and machines.processes_per_node * machines.nodes == 1:
        return "auto"
    if machines.strategy == "fsdp":
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
