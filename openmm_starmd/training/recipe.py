"""From trajectories to a weights directory: the run, its checkpoints and its resumption."""

from __future__ import annotations

import glob
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from openmm_starmd.data.folders import open_data
from openmm_starmd.data.store import is_store, open_store
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.data.windows import WindowDataset
from openmm_starmd.errors import StarMDWarning
from openmm_starmd.files.writing import lock, replacing_folder, sweep, write_text
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import find_weights, save_weights
from openmm_starmd.training.checkpoints import CHECKPOINT, LAST, LOG, VALIDATION, WEIGHTS, Checkpointing
from openmm_starmd.training.loader import RankData
from openmm_starmd.training.module import StarMDModule
from openmm_starmd.training.parallelism import Parallelism, make_trainer
from openmm_starmd.training.settings import Recipe, differences, read_recipe, recipe_for
from openmm_starmd.training.validation import Validation

MOST_REPLICAS = 1000
"""Replica numbers of one protein lie below this."""

RECIPE = "recipe.json"
"""File of a run's settings."""

load_proteins = open_data

__all__ = [
    "Recipe",
    "load_proteins",
    "read_run_recipe",
    "recipe_for",
    "released_config",
    "train",
    "validation_proteins",
]


def has_md(folders: Sequence[str | os.PathLike[str]], name: str) -> bool:
    """Whether one of the folders, as :func:`openmm_starmd.data.folders.open_data` takes them, has MD of a protein."""
    for folder in map(Path, folders):
        if is_store(folder):
            if any(protein.name == name for protein in open_store(folder)):
                return True
        elif any((folder / name).glob(f"{glob.escape(name)}_prod_R*_fit.xtc")):
            return True
    return False


def validation_proteins(
    folders: Sequence[str | os.PathLike[str]],
    names: Sequence[str],
    exclude: Sequence[str],
    trained: Sequence[ProteinData],
    *,
    strict: bool = True,
) -> list[ProteinData]:
    """MD to judge weights by, none of which is trained on.

    Parameters
    ----------
    folders : sequence of path
        As for :func:`openmm_starmd.data.folders.open_data`.
    names : sequence of str
        ``NAME``, or ``NAME:R`` for one replica. Of a protein some replicas of which are left out of training, ``NAME``
        means these; else all that there are.
    exclude : sequence of str
        What is left out of training.
    trained : sequence of ProteinData
        What is trained on.
    strict : bool
        Refuse what is trained on; else warn of it, as for runs that older editions began.

    Returns
    -------
    list of ProteinData

    Raises
    ------
    ValueError
        If there is no such protein or replica, or if it is trained on.
    """
    known = {protein.name for protein in trained}
    others = [name for name in known if name not in {name.partition(":")[0] for name in names}]
    found = []
    for name in names:
        base, _, number = name.partition(":")
        left_out = {item.partition(":")[2] for item in exclude if item.startswith(f"{base}:")}
        seen = base in known and (number not in left_out if number else not left_out)
        if seen and strict:
            raise ValueError(
                f"{name} is trained on, so that it says nothing of proteins that are not: leave it out of training "
                f"with --exclude {base}, or, which says less, one of its replicas with --exclude {base}:R, or validate "
                "on another protein"
            )
        wanted = {number} if number else left_out
        skipped = [f"{base}:{r}" for r in range(MOST_REPLICAS) if str(r) not in wanted] if wanted else []
        try:
            there = open_data(folders, [*others, *skipped])
        except ValueError:
            there = []
        matching = [protein for protein in there if protein.name == base]
        if not matching:
            raise ValueError(f"no MD of {name} to validate with in {', '.join(map(str, folders))}")
        found += matching
    sequences = {protein.sequence for protein in trained}
    near = sorted({protein.name for protein in found if protein.sequence in sequences})
    if near:
        warnings.warn(
            f"validation on {', '.join(near)}: other MD of the same protein is trained on, so that what was learned by "
            "heart looks like skill; a protein that is left out whole is the better judge",
            StarMDWarning,
            stacklevel=2,
        )
    return found


def read_run_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe that a run keeps; settings that it was begun without are as the classes have them, not the presets."""
    return read_recipe(path, Recipe(model=ModelConfig()))


def released_config(recipe: Recipe, proteins: Sequence[ProteinData]) -> ModelConfig:
    """Configuration of the weights that a recipe trains: the recipe's, with the limits of the data."""
    return replace(
        recipe.model,
        # weights fine-tuned on shorter proteins still draw the longest of their first training
        max_length=max(recipe.model.max_length, *(protein.features.length for protein in proteins)),
        stride_min=recipe.windows.stride_min,
        stride_max=recipe.windows.stride_max,
        max_context=recipe.windows.length - 1 if recipe.model.anchored else recipe.model.max_context,
    )


def train(
    proteins: Sequence[ProteinData],
    output: str | os.PathLike[str],
    recipe: Recipe,
    *,
    resume: bool = False,
    start_from: Network | None = None,
    validation: Sequence[ProteinData] = (),
    parallelism: Parallelism | None = None,
    accelerator: str | None = None,
    progress: bool = True,
) -> Path:
    """Train a network and write its averaged weights to ``output/weights``.

    ``output/weights`` can be used at any time; ``output/log.csv`` holds the losses, ``output/recipe.json`` the
    settings. With proteins to validate on, ``output/weights`` are those of the lowest validation loss so far, of which
    ``output/validation.csv`` has the parts, and ``output/last`` the newest. A run that was stopped or killed at any
    moment is resumed with `resume`, to the very weights and logs of an unbroken one (bit by bit on a CPU).

    Parameters
    ----------
    proteins : sequence of ProteinData
    output : path
        Folder of the run: checkpoint, log, weights.
    recipe : Recipe
    resume : bool
        Resume from the checkpoint of `output`; begin if there is none.
    start_from : Network, optional
        Weights to fine-tune; see :func:`openmm_starmd.training.recipe.initialise_from`.
    validation : sequence of ProteinData, optional
        Proteins, with MD, that the averaged weights are judged by, as ``recipe.validation`` says.
    parallelism : Parallelism, optional
        Devices and processes; one process, on a GPU where there is one, by default.
    accelerator : str, optional
        Short for ``Parallelism(accelerator)``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The weights directory.

    Raises
    ------
    ValueError
        If `output` holds a run already and `resume` is False, settings or data differ from that run's, another process
        trains into it, weights to fine-tune do not fit the recipe's model, or a loss is not finite.
    """
    output = Path(output)
    if recipe.model.conditioner == "openfold" and any(p.openfold is None for p in [*proteins, *validation]):
        raise ValueError(
            "the recipe's model conditions on OpenFold's features, and some proteins have none: give their folder "
            "(--openfold, or openmm_starmd.data.folders.with_openfold)"
        )
    parallelism = parallelism or Parallelism(accelerator=accelerator or "auto")
    config = released_config(recipe, proteins)
    dataset = WindowDataset(proteins, recipe.windows, recipe.steps)
    device = "cuda" if parallelism.on_gpu else "cpu"
    judge = Validation(validation, recipe.validation, config, device) if validation else None
    done = 0
    if resume and (output / CHECKPOINT).exists():
        done = _done(output / CHECKPOINT, parallelism.processes_per_node * parallelism.nodes * recipe.accumulate)
        if recipe.steps < done:
            raise ValueError(
                f"the run in {output} has {done} steps behind it, and {recipe.steps} were asked for in all"
            )
    torch.manual_seed(recipe.seed)
    network = Network(config)
    if start_from is not None:
        initialise_from(network, start_from)
    # processes of one run start at different times: only the first looks at what is in the folder, and writes
    trainer = make_trainer(parallelism, recipe, output, [], done)
    writes = trainer.is_global_zero
    if writes:
        output.mkdir(parents=True, exist_ok=True)
    wait = "wait for it (or for its data loaders to end, if it was killed a moment ago)"
    with lock(output, "training into", wait) if writes else nullcontext():
        module = StarMDModule(network, recipe)
        if parallelism.strategy == "fsdp":
            network.checkpoint_blocks = False
        keeper = Checkpointing(output, recipe, config, module.names, done, judge, progress)
        if writes:
            _prepare(output, recipe, proteins, resume)
            sweep(output)
            settings = json.dumps(asdict(recipe), indent=1) + "\n"
            if not (output / RECIPE).exists():
                # before all else, so that what a kill leaves from now on is a run that can be gone on with
                write_text(output / RECIPE, settings)
            for folder in (WEIGHTS, LAST) if keeper.table else (WEIGHTS,):
                if not (output / folder).exists():
                    _first_weights(output / folder, network, config)
                write_training_data(output / folder, proteins, recipe)
            keeper.begin()
            write_text(output / RECIPE, settings)
            if not done:
                keeper.judge_start(network)
        trainer.callbacks.append(keeper)
        elastic = recipe.model.prior == "elastic"
        data = RankData(dataset, done, recipe.accumulate, parallelism.workers, modes=elastic)
        trainer.fit(module, data, ckpt_path=str(output / CHECKPOINT) if done else None, weights_only=False)
    return output / WEIGHTS


def _done(checkpoint: Path, batches: int) -> int:
    """Steps that a checkpoint has behind it; a ValueError if its steps had another number of batches."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)
    if "starmd" not in state:
        raise ValueError(
            f"{checkpoint} was written by an older openmm_starmd and cannot be gone on with: start a new run"
        )
    before = state["starmd"]["batches_per_step"]
    if before != batches:
        raise ValueError(
            f"the run in {checkpoint.parent} has {before} batches per step (processes x accumulate), and now there "
            f"would be {batches}: choose devices, nodes and --accumulate so that there are as many"
        )
    return int(state["global_step"])


def _prepare(output: Path, recipe: Recipe, proteins: Sequence[ProteinData], resume: bool) -> None:
    """Refuse a folder that holds another run or somebody else's files."""
    kept = output / RECIPE
    if not kept.exists():
        there = [name for name in (WEIGHTS, LAST, LOG, VALIDATION, CHECKPOINT) if (output / name).exists()]
        if there:
            raise ValueError(
                f"{output} holds {', '.join(there)}, but no recipe.json of a training run: choose another --output"
            )
        return
    if not resume:
        raise ValueError(f"{output} holds a training run: go on with --resume, or choose another folder")
    changed = [d for d in differences(read_run_recipe(kept), recipe) if not d.startswith("steps:")]
    if changed:
        raise ValueError(
            f"--resume goes on with the settings of {kept}, but these differ: {'; '.join(changed)}. Leave them as they "
            "were (only the number of steps may change), or start a new run"
        )
    listing = output / WEIGHTS / "training_data.json"
    if listing.exists():
        before = {tuple(map(str, item.values())) for item in json.loads(listing.read_text())["proteins"]}
        now = {tuple(map(str, item.values())) for item in _listing(proteins)}
        names = sorted({item[0] for item in before ^ now})
        if names:
            raise ValueError(
                f"--resume goes on with the data of {listing}, but these proteins differ from it: "
                f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}. Give the same --data, --exclude and "
                "--split, or start a new run"
            )


def _listing(proteins: Sequence[ProteinData]) -> list[dict[str, Any]]:
    return [
        {
            "name": protein.name,
            "sequence": protein.sequence,
            "picoseconds": [round(len(r) * r.interval, 3) for r in protein.replicas],
        }
        for protein in proteins
    ]


def write_training_data(folder: Path, proteins: Sequence[ProteinData], recipe: Recipe) -> None:
    """List what is trained on, by name and sequence, and how, in ``training_data.json`` beside the weights.

    What the weights to begin from were trained on stands under ``"earlier"``; their held-out proteins are listed
    as they were.
    """
    path = folder / "training_data.json"
    settings = {name: value for name, value in asdict(recipe).items() if name != "model"}
    record: dict[str, Any] = {"proteins": _listing(proteins)}
    if path.exists():
        before = json.loads(path.read_text())
        record |= {key: before[key] for key in ("earlier", "held_out") if key in before}
    elif recipe.start_from:
        record |= _ancestry(recipe.start_from)
    write_text(path, json.dumps(record | {"recipe": settings}, indent=1) + "\n")


def _ancestry(weights: str) -> dict[str, Any]:
    """Training and held-out proteins of the weights to begin from, as far as they are known."""
    listing = find_weights(weights).parent / "training_data.json"
    if not listing.exists():
        return {}
    before = json.loads(listing.read_text())
    proteins = {protein["name"]: protein for protein in before.get("earlier", []) + before["proteins"]}
    held_out = {"held_out": before["held_out"]} if "held_out" in before else {}
    return {"earlier": list(proteins.values())} | held_out


def _first_weights(folder: Path, network: Network, config: ModelConfig) -> None:
    """Make the weights directory, complete from its first moment, with the weights that training begins from."""
    with replacing_folder(folder) as temporary:
        save_weights(temporary, network, config)


GAINED = ("conditioner.torsions.weight",)
"""Weights that older ones may lack. They are zero at first, so that the network begins by giving what those gave."""
SIZES = (
    *("anchored", "conditioner", "reference_torsions", "c_s", "c_z", "blocks", "conditioner_layers"),
    *("conditioner_s", "conditioner_z", "ipa_heads", "ipa_hidden", "ipa_query_points", "ipa_value_points"),
    *("attention_layers", "attention_heads", "attention_hidden", "mlp_ratio", "prior", "attention_temperature"),
)
"""Settings of the model that weights are made for."""


def initialise_from(network: Network, weights: Network) -> None:
    """Give a network trained weights to begin from.

    A network with ``reference_torsions`` may begin from weights without: it gives what they give, until it is trained.

    Parameters
    ----------
    network : Network
        Fresh; changed in place.
    weights : Network

    Raises
    ------
    ValueError
        If the weights were made for another model; names the settings that differ.
    """
    mine, theirs = asdict(network.config), asdict(weights.config)
    gained = network.config.reference_torsions and not weights.config.reference_torsions
    differing = [
        f"model.{name} is {mine[name]!r} and theirs {theirs[name]!r}"
        for name in SIZES
        if mine[name] != theirs[name] and not (name == "reference_torsions" and gained)
    ]
    if differing:
        raise ValueError(
            f"the weights to begin from do not fit the recipe: {'; '.join(differing)}. Leave these settings as the "
            "weights have them; only reference_torsions can be switched on"
        )
    state = network.state_dict()
    network.load_state_dict({name: state[name] for name in GAINED if name in state} | weights.state_dict())
