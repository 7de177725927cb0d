"""The command ``openmm-starmd train``: trajectories in, weights out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from openmm_starmd.cli.errors import clean_errors


def train(
    positional: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA...]", help="The same as --data.", show_default=False)
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="STORE", help="Store of `prepare`, or folder in ATLAS layout; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="RUN", help="Folder of the run; needed but for --dry-run.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="mini or paper; mini by default, or the form of the weights of --from.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file of settings, as recipe.json of a run; options come before it."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all; 20000 by default.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="NAME of a protein, or NAME:R of a replica, to leave out; repeatable.")
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Protein, or NAME:R, that the weights draw short rollouts of as they train; repeatable.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the weights; that in FILE or of RUN by default.")] = "",
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="WEIGHTS", help="Weights to fine-tune, with their model settings.")
    ] = None,
    openfold: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of NAME_single_repr.npy and NAME_pair_repr.npy, for a model with the conditioner openfold.",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Size of a batch: residues x frames x windows, of one protein.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches per process and step; a step has processes x so many.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16, or auto: bf16 on a GPU.")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option("--checkpointing/--no-checkpointing", help="Less memory, a third more time.", show_default=False),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu, or auto.")] = "auto",
    devices: Annotated[
        str, typer.Option(help="Processes per node, each with a GPU or, on CPUs, without; or auto.")
    ] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="Machines, started by torchrun or SLURM.")] = 1,
    strategy: Annotated[str, typer.Option(help="ddp, fsdp, or auto.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read data ahead, per process.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per process.")] = 1,
    logger: Annotated[str, typer.Option(help="csv, or tensorboard beside it.")] = "csv",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameters, memory and speed of a few steps; write nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
) -> None:
    """Train weights on trajectories. The run saves as it goes; RUN/weights can be used at any time.

    A run that was stopped or killed at any moment goes on with --resume, to the very weights of an unbroken one (bit by
    bit on a CPU). Several GPUs: --devices 8, and on several machines also --nodes, under SLURM's srun with a task per
    GPU or `torchrun --nnodes ... --nproc-per-node 8 -m openmm_starmd.cli train ...`. Settings that have no option are
    set by --config.
    """
    with clean_errors():
        folders = [*(positional or []), *(data or [])]
        if not folders:
            raise ValueError("no data: give --data STORE, a store of `prepare` or a folder in ATLAS layout")
        if output is None and not dry_run:
            raise ValueError("--output RUN is missing: the folder of the run")
        import torch

        from openmm_starmd.data.folders import with_openfold
        from openmm_starmd.model.weights import load_weights
        from openmm_starmd.training import recipe as recipes
        from openmm_starmd.training.parallelism import Machines
        from openmm_starmd.training.settings import read_recipe

        torch.set_num_threads(threads)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", message=".*treespec")  # Lightning's own affair
        machines = Machines(
            accelerator=accelerator,
            devices=_devices(devices),
            nodes=nodes,
            strategy=strategy,
            workers=workers,
            logger=logger,
        )
        weights = None if start_from is None else load_weights(start_from)
        form = "mini" if weights is None or weights.config.anchored else "paper"
        if weights is not None and preset not in (None, form):
            raise ValueError(f"--preset {preset}, but {start_from} is of the form {form}: leave --preset out")
        base = recipes.recipe_for(preset or form)
        if weights is not None:
            known = weights.config
            base = _changed(
                base,
                {
                    "model": known,
                    "windows.stride_min": known.stride_min,
                    "windows.stride_max": known.stride_max,
                    "windows.stride_focus": known.stride_default,
                },
            )
        recipe = base if config is None else read_recipe(config, base)
        if config is not None and recipe.model.name != base.model.name:
            name = name or recipe.model.name
        name = name or (output.name if output else preset or form)
        recipe = _changed(
            recipe,
            {
                "start_from": start_from,
                "steps": max_steps,
                "model.name": name,
                "windows.tokens": tokens,
                "accumulate": accumulate,
                "precision": precision,
                "checkpointing": checkpointing,
                "validation.proteins": tuple(validate) if validate else None,
            },
        )
        wants_openfold = recipe.model.conditioner == "openfold"
        if wants_openfold and openfold is None:
            raise ValueError("the model conditions on OpenFold's features: give their folder with --openfold")
        if openfold is not None and not wants_openfold:
            raise ValueError(
                "--openfold is for a model that conditions on it: give --config a file with "
                '{"model": {"conditioner": "openfold"}}'
            )
        proteins = recipes.load_proteins(folders, exclude or [])
        if openfold is not None:
            proteins = with_openfold(proteins, openfold)
        first = _first_process()
        if first:
            typer.echo(f"{len(proteins)} proteins, {sum(len(p.replicas) for p in proteins)} trajectories")
        if dry_run:
            from openmm_starmd.training.dry_run import dry_run as measure

            typer.echo(measure(proteins, recipe, "cuda" if machines.on_gpu else "cpu"))
        if dry_run or output is None:
            return
        wanted = recipe.validation.proteins
        judged = recipes.validation_proteins(folders, wanted, exclude or [], proteins) if wanted else []
        if openfold is not None:
            judged = with_openfold(judged, openfold)
        for protein in judged:
            if first and protein.name not in {p.name for p in proteins}:
                typer.echo(f"validation on {protein.name}, which is not trained on")
        network = None if weights is None else weights.network
        written = recipes.train(
            proteins, output, recipe, resume=resume, start_from=network, validation=judged, machines=machines
        )
        if first:
            typer.echo(str(written))


def _changed(recipe: Any, values: dict[str, Any]) -> Any:
    """`recipe` with settings replaced, ``"windows.tokens"`` and the like; None leaves a setting as it is."""
    from dataclasses import replace

    for name, value in values.items():
        if value is None:
            continue
        outer, _, inner = name.rpartition(".")
        if outer:
            value = replace(getattr(recipe, outer), **{inner: value})
        recipe = replace(recipe, **{outer or inner: value})
    return recipe


def _devices(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal():
        raise ValueError(f"devices is {text!r}; give a number, or 'auto' for all GPUs")
    return int(text)


def _first_process() -> bool:
    """Whether this is the only process of the run, or the first of several."""
    import os

    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
