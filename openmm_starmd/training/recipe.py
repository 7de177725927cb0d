"""From a folder of trajectories to a weights directory: the run, its checkpoints and its resumption."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from openmm_starmd.data.trajectories import ProteinData, load_protein
from openmm_starmd.data.windows import Batch, WindowDataset, WindowSettings
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import save_weights
from openmm_starmd.training.extra import Callback, CSVLogger, ModelCheckpoint, lightning
from openmm_starmd.training.module import OptimizerSettings, StarMDModule
from openmm_starmd.training.objective import ObjectiveSettings, recipe_objective


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run.

    Attributes
    ----------
    model : ModelConfig
    windows : WindowSettings
    objective : ObjectiveSettings
    optimizer : OptimizerSettings
    steps : int
        Optimiser steps.
    seed : int
        Of the initial weights; windows and noise have ``windows.seed``.
    save_every : int
        Steps between checkpoints.
    log_every : int
    """

    model: ModelConfig = field(default_factory=lambda: preset("mini"))
    windows: WindowSettings = field(default_factory=WindowSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    steps: int = 10_000
    seed: int = 0
    save_every: int = 500
    log_every: int = 50


def recipe_for(name: str) -> Recipe:
    """The recipe of a preset, ``"mini"`` or ``"paper"``."""
    model = preset(name)
    if name == "mini":
        return Recipe(model=model)
    windows = WindowSettings(
        stride_min=model.stride_min, stride_max=model.stride_max, focus_probability=0.0, gap_probability=0.0
    )
    optimizer = OptimizerSettings(learning_rate=2e-4)
    return Recipe(model=model, windows=windows, objective=recipe_objective(name), optimizer=optimizer)


class _From(Dataset[Batch]):
    """The rest of a dataset from a given step on, so that a resumed run sees the batches it has not seen."""

    def __init__(self, dataset: WindowDataset, start: int) -> None:
        self.dataset, self.start = dataset, start

    def __len__(self) -> int:
        return len(self.dataset) - self.start

    def __getitem__(self, index: int) -> Batch:
        return self.dataset[self.start + index]


class _Export(Callback):
    """Writes the averaged weights whenever a checkpoint is due, so that a run is useful before it ends."""

    def __init__(self, folder: Path, config: ModelConfig, every: int) -> None:
        self.folder, self.config, self.every = folder, config, every

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == module.steps:
            save_weights(self.folder, module.averaged, self.config)


def load_proteins(folders: Sequence[str | os.PathLike[str]], exclude: Sequence[str] = ()) -> list[ProteinData]:
    """All proteins of several ATLAS-style trees; one name in two trees gets the replicas of both.

    Parameters
    ----------
    folders : sequence of path
        Trees that hold ``NAME/NAME.pdb`` and trajectories.
    exclude : sequence of str
        Names, or ``NAME:R`` for one replica, to leave out.

    Returns
    -------
    list of ProteinData
        Ordered by name.
    """
    excluded = set(exclude)
    found: dict[str, ProteinData] = {}
    for folder in folders:
        for path in sorted(Path(folder).iterdir()):
            name = path.name
            trajectories = sorted(path.glob(f"{name}_prod_R*_fit.xtc"))
            if name in excluded or not trajectories:
                continue
            numbers = [int(t.stem.split("_prod_R")[1].split("_")[0]) for t in trajectories]
            numbers = [n for n in numbers if f"{name}:{n}" not in excluded]
            if not numbers:
                continue
            try:
                protein = load_protein(path, numbers)
            except ValueError as error:
                print(f"left out {name}: {error}")
                continue
            if name in found:
                protein = replace(protein, replicas=found[name].replicas + protein.replicas)
            found[name] = protein
    if not found:
        raise ValueError(f"no trajectories in {[str(f) for f in folders]}: expected NAME/NAME_prod_R*_fit.xtc")
    return [found[name] for name in sorted(found)]


def write_training_data(folder: Path, proteins: Sequence[ProteinData], recipe: Recipe) -> None:
    """List what is trained on, by name and sequence, and how, in ``training_data.json`` beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = [
        {
            "name": protein.name,
            "sequence": protein.sequence,
            "picoseconds": [round(len(r) * r.interval, 3) for r in protein.replicas],
        }
        for protein in proteins
    ]
    temporary = folder / ".partial-training_data.json"
    settings = {name: value for name, value in asdict(recipe).items() if name != "model"}
    temporary.write_text(json.dumps({"proteins": listing, "recipe": settings}, indent=1) + "\n")
    os.replace(temporary, folder / "training_data.json")


def train(
    proteins: Sequence[ProteinData],
    output: str | os.PathLike[str],
    recipe: Recipe,
    *,
    resume: bool = False,
    start_from: Network | None = None,
    accelerator: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a network and write its averaged weights to ``output/weights``.

    Parameters
    ----------
    proteins : sequence of ProteinData
    output : path
        Folder of the run: checkpoints, logs, weights.
    recipe : Recipe
    resume : bool
        Go on from the last checkpoint of `output`.
    start_from : Network, optional
        Weights to fine-tune.
    accelerator : str
        Lightning's accelerator; bf16 on a GPU.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The weights directory.

    Raises
    ------
    ValueError
        If `output` holds a run already and `resume` is False.
    """
    output = Path(output)
    last = output / "last.ckpt"
    if last.exists() and not resume:
        raise ValueError(f"{output} holds a training run: go on with resume (--resume), or choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    config = replace(
        recipe.model,
        max_length=max(protein.features.length for protein in proteins),
        stride_min=recipe.windows.stride_min,
        stride_max=recipe.windows.stride_max,
        max_context=recipe.windows.length - 1 if recipe.model.anchored else recipe.model.max_context,
    )
    (output / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    weights = output / "weights"
    write_training_data(weights, proteins, recipe)
    torch.manual_seed(recipe.seed)
    network = Network(config)
    if start_from is not None:
        network.load_state_dict(start_from.state_dict())
    module = StarMDModule(network, recipe.objective, recipe.optimizer, recipe.steps)
    done = 0
    if resume and last.exists():
        done = torch.load(last, map_location="cpu", weights_only=False)["global_step"]
    dataset = WindowDataset(proteins, recipe.windows, recipe.steps)
    loader = DataLoader(_From(dataset, done), batch_size=None, shuffle=False, num_workers=0)
    checkpoint = ModelCheckpoint(
        dirpath=output, filename="step-{step}", every_n_train_steps=recipe.save_every, save_last=True, save_top_k=1
    )
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ValueError(f"accelerator is {accelerator!r}; choose 'auto', 'cpu' or 'gpu'")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("accelerator is 'gpu', but torch sees no CUDA device: use 'auto' or 'cpu'")
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    trainer = lightning.Trainer(
        max_steps=recipe.steps,
        accelerator=accelerator if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if on_gpu else "32-true",
        gradient_clip_val=recipe.optimizer.gradient_clip,
        callbacks=[checkpoint, _Export(weights, config, recipe.save_every)],
        logger=CSVLogger(output, name="logs"),
        log_every_n_steps=recipe.log_every,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, loader, ckpt_path=str(last) if done else None, weights_only=False)
    save_weights(weights, module.averaged, config)
    return weights
