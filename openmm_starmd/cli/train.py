"""The command ``openmm-starmd train``: trajectories in, weights out."""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from openmm_starmd.cli.errors import clean_errors

if TYPE_CHECKING:
    from openmm_starmd.data.trajectories import ProteinData
    from openmm_starmd.model.config import ModelConfig
    from openmm_starmd.model.weights import Weights
    from openmm_starmd.training.parallelism import Parallelism
    from openmm_starmd.training.settings import Recipe

# what the options are; the function below says what they do
Positional = Annotated[
    list[Path] | None, typer.Argument(metavar="[DATA...]", help="The same as --data.", show_default=False)
]
DataFolders = Annotated[
    list[Path] | None,
    typer.Option(metavar="STORE", help="Store of `prepare`, or folder in ATLAS layout; repeatable."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="RUN", help="Folder of the run; needed but for --dry-run.")
]
Preset = Annotated[
    str | None, typer.Option(help="mini or paper; mini by default, or the form of the weights of --from.")
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="JSON file of settings, as recipe.json of a run; options come before it."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="NAME of a protein, or NAME:R of a replica, to leave out; repeatable.")
]
Validate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Protein, or NAME:R, not trained on, whose MD the weights are judged by as they train; repeatable.",
    ),
]
Split = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='JSON file {"choose": [{"name": ...}, ...], "report": [...]}: none of these is trained on; what --data '
        "holds of the first is validated on, unless --validate says otherwise.",
    ),
]
StartFrom = Annotated[
    str | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to fine-tune, with their model settings.")
]
Openfold = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of NAME_single_repr.npy and NAME_pair_repr.npy, for a model with the conditioner openfold.",
    ),
]
Tokens = Annotated[
    int | None, typer.Option(min=2, help="Size of a batch: residues x frames x windows, of one protein.")
]
Accumulate = Annotated[
    int | None, typer.Option(min=1, help="Batches per process and step; a step has processes x so many.")
]
Checkpointing = Annotated[
    bool | None,
    typer.Option("--checkpointing/--no-checkpointing", help="Less memory, a third more time.", show_default=False),
]
Devices = Annotated[str, typer.Option(help="Processes per node, each with a GPU or, on CPUs, without; or auto.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print parameters, memory and speed of a few steps; write nothing.")
]


def train(
    positional: Positional = None,
    data: DataFolders = None,
    output: Output = None,
    preset: Preset = None,
    config: Config = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all; 20000 by default.")] = None,
    exclude: Exclude = None,
    validate: Validate = None,
    split: Split = None,
    name: Annotated[str, typer.Option(help="Name of the weights; that in FILE or of RUN by default.")] = "",
    start_from: StartFrom = None,
    openfold: Openfold = None,
    tokens: Tokens = None,
    accumulate: Accumulate = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16, or auto: bf16 on a GPU.")] = None,
    checkpointing: Checkpointing = None,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu, or auto.")] = "auto",
    devices: Devices = "1",
    nodes: Annotated[int, typer.Option(min=1, help="Machines, started by torchrun or SLURM.")] = 1,
    strategy: Annotated[str, typer.Option(help="ddp, fsdp, or auto.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read data ahead, per process.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per process.")] = 1,
    logger: Annotated[str, typer.Option(help="csv, or tensorboard beside it.")] = "csv",
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in RUN.")] = False,
) -> None:
    """Train weights on trajectories. The run saves as it goes; RUN/weights can be used at any time.

    With proteins to validate on (--validate, --split), RUN/weights are those that had the lowest validation loss: the
    error of the next frame, denoised from several levels of noise at several strides, over that of the last frame.
    RUN/validation.csv has it by protein, stride and noise (ps, Å), RUN/last the newest weights.

    A run that was stopped or killed at any moment is continued by --resume, with the settings in RUN/recipe.json, to
    the very weights of an unbroken one (bit by bit on a CPU). Several GPUs: --devices 8, and on several machines also
    --nodes, under SLURM's srun with a task per GPU or `torchrun --nnodes ... --nproc-per-node 8 -m openmm_starmd.cli
    train ...`. Settings that have no option are set by --config.
    """
    with clean_errors():
        folders = [*(positional or []), *(data or [])]
        if not folders:
            raise ValueError("no data: give --data STORE, a store of `prepare` or a folder in ATLAS layout")
        if output is None and not dry_run:
            raise ValueError("--output RUN is missing: the folder of the run")
        import torch

        from openmm_starmd.training.parallelism import Parallelism
        from openmm_starmd.training.settings import read_recipe

        torch.set_num_threads(threads)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", message=".*treespec")  # Lightning's own affair
        parallelism = Parallelism(
            accelerator=accelerator,
            devices=_devices(devices),
            nodes=nodes,
            strategy=strategy,
            workers=workers,
            logger=logger,
        )
        left_out = _Split.read(split)
        base, weights, resumed = _base(preset, start_from, output if resume else None)
        recipe = base if config is None else read_recipe(config, base)
        if resumed or recipe.model.name != base.model.name:
            name = name or recipe.model.name
        source = _Source(folders, [*(exclude or []), *left_out.names], openfold)
        chosen = tuple(validate or (() if resumed else left_out.with_md(folders)))
        recipe = _changed(
            recipe,
            {
                "start_from": start_from,
                "steps": max_steps,
                "model.name": name or (output.name if output else _form(base.model)),
                "windows.tokens": tokens,
                "accumulate": accumulate,
                "precision": precision,
                "checkpointing": checkpointing,
                "validation.proteins": chosen or None,
            },
        )
        source.check(recipe)
        if dry_run:
            _measure(source, recipe, "cuda" if parallelism.on_gpu else "cpu")
        elif output is not None:
            _train(source, output, recipe, weights, parallelism, resume)


def _base(preset: str | None, start_from: str | None, resumed: Path | None) -> tuple[Recipe, Weights | None, bool]:
    """Recipe to begin from, weights to fine-tune, and whether they are those of a run in the folder `resumed`."""
    from openmm_starmd.model.weights import load_weights
    from openmm_starmd.training.checkpoints import CHECKPOINT
    from openmm_starmd.training.recipe import read_run_recipe
    from openmm_starmd.training.settings import recipe_for

    if resumed is not None and (resumed / "recipe.json").exists():
        base = read_run_recipe(resumed / "recipe.json")
        # once there is a checkpoint, nothing is begun any more
        needed = base.start_from and not (resumed / CHECKPOINT).exists()
        _check_form(preset, base.model, f"the run in {resumed}")
        return base, load_weights(base.start_from) if needed else None, True
    if start_from is None:
        return recipe_for(preset or "mini"), None, False
    weights = load_weights(start_from)
    known = weights.config
    _check_form(preset, known, start_from)
    base = _changed(
        recipe_for(_form(known)),
        {
            "model": known,
            "windows.stride_min": known.stride_min,
            "windows.stride_max": known.stride_max,
            "windows.stride_focus": known.stride_default,
        },
    )
    return base, weights, False


def _form(model: ModelConfig) -> str:
    """The preset that a model is of the form of."""
    return "mini" if model.anchored else "paper"


def _check_form(preset: str | None, model: ModelConfig, whose: str) -> None:
    if preset not in (None, _form(model)):
        raise ValueError(f"--preset {preset}, but {whose} is of the form {_form(model)}: leave --preset out")


def _changed(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """`recipe` with settings replaced, ``"windows.tokens"`` and the like; None leaves a setting as it is."""
    for name, value in values.items():
        if value is not None:
            outer, _, inner = name.rpartition(".")
            part = replace(getattr(recipe, outer), **{inner: value}) if outer else value
            recipe = replace(recipe, **{outer or inner: part})
    return recipe


class _Split(NamedTuple):
    """Proteins that a file keeps out of training."""

    path: Path | None
    choose: list[str]
    report: list[str]

    @classmethod
    def read(cls, path: Path | None) -> _Split:
        """Names in a file; none without one."""
        if path is None:
            return cls(None, [], [])
        try:
            content = json.loads(path.read_text())
            lists = [[str(protein["name"]) for protein in content[key]] for key in ("choose", "report")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path} is not a split of proteins, {{"choose": [{{"name": ...}}, ...], "report": [...]}}: '
                f"{type(error).__name__}: {error}"
            ) from error
        if not lists[0] or set(lists[0]) & set(lists[1]):
            raise ValueError(f"{path}: choose must name proteins, and none that report names")
        return cls(path, *lists)

    @property
    def names(self) -> list[str]:
        """All that must not be trained on."""
        return [*self.choose, *self.report]

    def with_md(self, folders: list[Path]) -> tuple[str, ...]:
        """Those to choose by that folders hold MD of; the others are named in a warning."""
        from openmm_starmd.errors import StarMDWarning
        from openmm_starmd.training.recipe import has_md

        if self.path is None:
            return ()
        lacking = [name for name in self.choose if not has_md(folders, name)]
        if len(lacking) == len(self.choose):
            raise ValueError(
                f"{', '.join(map(str, folders))} hold no MD of the proteins that {self.path} chooses by "
                f"({', '.join(lacking)}): add their folder to --data, or leave them out by --exclude instead of --split"
            )
        if lacking and _first_process():
            warnings.warn(f"not validated on {', '.join(lacking)}: --data holds no MD of them", StarMDWarning, 2)
        return tuple(name for name in self.choose if name not in lacking)


class _Source(NamedTuple):
    """Where the proteins of a training run come from."""

    folders: list[Path]
    exclude: list[str]
    openfold: Path | None

    def check(self, recipe: Recipe) -> None:
        """Raise a ValueError if OpenFold's features are missing or unwanted."""
        wanted = recipe.model.conditioner == "openfold"
        if wanted and self.openfold is None:
            raise ValueError("the model conditions on OpenFold's features: give their folder with --openfold")
        if self.openfold is not None and not wanted:
            raise ValueError(
                "--openfold is for a model that conditions on it: give --config a file with "
                '{"model": {"conditioner": "openfold"}}'
            )

    def proteins(self) -> list[ProteinData]:
        """What is trained on."""
        from openmm_starmd.data.folders import open_data

        proteins = self._complete(open_data(self.folders, self.exclude))
        if _first_process():
            typer.echo(f"{len(proteins)} proteins, {sum(len(p.replicas) for p in proteins)} trajectories")
        return proteins

    def validation(self, recipe: Recipe, trained: list[ProteinData]) -> list[ProteinData]:
        """What weights are judged by."""
        from openmm_starmd.training.recipe import validation_proteins

        settings = recipe.validation
        if not settings.proteins:
            return []
        # runs of older editions validate by rollouts alone, also of proteins that they train on, and may go on
        strict = settings.denoising.windows > 0
        found = validation_proteins(self.folders, settings.proteins, self.exclude, trained, strict=strict)
        proteins = self._complete(found)
        for protein in proteins:
            if _first_process() and protein.name not in {p.name for p in trained}:
                typer.echo(f"validation on {protein.name}, which is not trained on")
        return proteins

    def _complete(self, proteins: list[ProteinData]) -> list[ProteinData]:
        from openmm_starmd.data.folders import with_openfold

        return proteins if self.openfold is None else with_openfold(proteins, self.openfold)


def _measure(source: _Source, recipe: Recipe, device: str) -> None:
    """Print what the training would take."""
    from openmm_starmd.training.dry_run import dry_run

    proteins = source.proteins()
    typer.echo(dry_run(proteins, recipe, device, validation=source.validation(recipe, proteins)))


def _train(
    source: _Source, output: Path, recipe: Recipe, weights: Weights | None, parallelism: Parallelism, resume: bool
) -> None:
    """Train, and print where the weights are, and which."""
    from openmm_starmd.training import recipe as recipes
    from openmm_starmd.training.checkpoints import summary

    proteins = source.proteins()
    written = recipes.train(
        proteins,
        output,
        recipe,
        resume=resume,
        start_from=None if weights is None else weights.network,
        validation=source.validation(recipe, proteins),
        parallelism=parallelism,
    )
    if _first_process():
        said = summary(output)
        if said is not None:
            typer.echo(said)
        typer.echo(str(written))


def _devices(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal():
        raise ValueError(f"devices is {text!r}; give a number, or 'auto' for all GPUs")
    return int(text)


def _first_process() -> bool:
    """Whether this is the only process of the run, or the first of several."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
