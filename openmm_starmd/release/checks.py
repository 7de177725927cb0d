"""Looking at weights and checking them: what ``openmm-starmd weights inspect`` and ``verify`` do."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.weights import Weights, find_weights, load_weights, read_config

CARD, TRAINING = "MODEL_CARD.md", "training_data.json"
PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}


@dataclass(frozen=True)
class Inspection:
    """What weights say of themselves, read without building the network.

    Attributes
    ----------
    path : Path
        The safetensors file.
    config : ModelConfig
    parameters : int
    stored : tuple of str
        Number formats in the file.
    sha256 : str
        Of the safetensors file.
    proteins : int or None
        Training proteins; None where ``training_data.json`` is not there.
    trajectories : int
    nanoseconds : float
        Training data in all.
    """

    path: Path
    config: ModelConfig
    parameters: int
    stored: tuple[str, ...]
    sha256: str
    proteins: int | None
    trajectories: int
    nanoseconds: float

    def lines(self) -> list[str]:
        """What to print, a line per fact."""
        c = self.config
        form = "anchored (mini)" if c.anchored else "paper"
        size = self.path.stat().st_size / 1e6
        data = "not listed (no training_data.json)"
        if self.proteins is not None:
            data = f"{self.proteins} proteins, {self.trajectories} trajectories, {self.nanoseconds:.2f} ns"
        facts = {
            "name": c.name or self.path.parent.name,
            "file": f"{self.path} ({size:.1f} MB, {', '.join(self.stored)})",
            "sha256": self.sha256,
            "form": form,
            "parameters": f"{self.parameters:,}",
            "widths": f"singles {c.c_s}, pairs {c.c_z}",
            "blocks": f"{c.blocks}, each 1 IPA ({c.ipa_heads} heads) + {c.attention_layers} {c.attention} space-time "
            f"attention ({c.attention_heads} heads, {c.attention_hidden} wide)",
            "conditioner": _conditioner(c),
            "strides": f"{c.stride_min:g} to {c.stride_max:g} ps, {c.stride_default:g} ps by default",
            "sampler": f"{c.sampler}, {c.steps} steps, down to τ {c.tau_end:g}",
            "history": f"{c.max_context} frames, contextual noise up to τ {c.context_tau:g}",
            "temperature": f"{c.temperature:g} K",
            "max length": f"{c.max_length} residues" if c.max_length else "not stated",
            "torsions": "trained: atoms='heavy' is the default" if c.torsions_trained else "not the default to draw",
            "training data": data,
            "card": "MODEL_CARD.md" if (self.path.parent / CARD).exists() else "none",
        }
        width = max(map(len, facts))
        return [f"{key:{width}}  {value}" for key, value in facts.items()]


def _conditioner(config: ModelConfig) -> str:
    widths = f"singles {config.conditioner_s}, pairs {config.conditioner_z}"
    if config.conditioner == "openfold":
        return f"OpenFold's features, which the user hands over; {widths}"
    return f"geometry of a reference structure, {config.conditioner_layers} layers; {widths}"


@dataclass(frozen=True)
class Check:
    """One finding of :func:`verify`.

    Attributes
    ----------
    name : str
    ok : bool or None
        None for what could not be checked or is only to be noted.
    detail : str
    """

    name: str
    ok: bool | None
    detail: str

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "note"}[self.ok]
        return f"{mark}  {self.name}: {self.detail}"


def inspect(weights: str | os.PathLike[str]) -> Inspection:
    """Read what weights say of themselves.

    Parameters
    ----------
    weights : str or path
        As for :func:`openmm_starmd.model.weights.load_weights`.

    Returns
    -------
    Inspection

    Raises
    ------
    ValueError
        If there are no such weights, or a file cannot be read.
    """
    path = find_weights(weights)
    try:
        with safe_open(path, "pt") as file:
            slices = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118
            shapes = [torch.Size(part.get_shape()) for part in slices]
            stored = tuple(sorted({str(part.get_dtype()) for part in slices}))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    listing = training_data(path.parent)
    spans = [protein["picoseconds"] for protein in listing["proteins"]] if listing else []
    return Inspection(
        path,
        read_config(path.parent / "config.json"),
        sum(shape.numel() for shape in shapes),
        stored,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        len(spans) if listing else None,
        sum(map(len, spans)),
        sum(map(sum, spans)) / 1000,
    )


def training_data(folder: Path) -> dict[str, Any] | None:
    """What ``training_data.json`` of a weights directory lists; None where there is none."""
    path = folder / TRAINING
    if not path.exists():
        return None
    try:
        listing = json.loads(path.read_text())
        for protein in listing["proteins"]:
            if not protein["name"] or not isinstance(protein["sequence"], str):
                raise KeyError("name and sequence")
            sum(protein["picoseconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not list training proteins: {type(error).__name__}: {error}") from error
    return listing


def verify(
    weights: str | os.PathLike[str], *, frames: int = 5, held_out: dict[str, str] | None = None
) -> Iterator[Check]:
    """Check weights, the cheap things first; a check that others depend on ends it when it fails.

    Parameters
    ----------
    weights : str or path
    frames : int
        Frames of villin (openmm's own ``test.pdb``) to draw, at the default stride.
    held_out : dict of str to str, optional
        Names and sequences that must not have been trained on, beside those in ``training_data.json`` under
        ``held_out``.

    Yields
    ------
    Check
    """
    path = find_weights(weights)
    yield from _check_files(path)
    try:
        loaded = load_weights(path)
    except ValueError as error:
        yield Check("configuration", False, str(error))
        return
    total = sum(value.numel() for value in loaded.network.parameters())
    yield Check("configuration", True, f"{path.name} fits config.json, {total:,} parameters")
    wrong = [name for name, value in loaded.network.state_dict().items() if not value.isfinite().all()]
    if wrong:
        yield Check("numbers", False, f"NaN or infinite in {', '.join(wrong[:3])} ({len(wrong)} tensors in all)")
        return
    yield Check("numbers", True, "all finite")
    yield from _check_rollout(loaded, frames)
    yield from _check_held_out(path.parent, held_out or {})


def _check_files(path: Path) -> Iterator[Check]:
    missing = [name for name in (CARD, TRAINING) if not (path.parent / name).exists()]
    pickles = sorted(file.name for file in path.parent.iterdir() if file.suffix in PICKLES)
    if pickles:
        yield Check("files", False, f"{', '.join(pickles)} may run code when opened: take them away")
    elif missing:
        yield Check("files", None, f"no {' and no '.join(missing)}; the network needs neither")
    else:
        yield Check("files", True, f"{path.name}, config.json, {TRAINING}, {CARD}")


def _check_rollout(loaded: Weights, frames: int) -> Iterator[Check]:
    """A forward pass and a few frames of villin."""
    if loaded.config.conditioner == "openfold":
        yield Check("rollout", None, "not tried: these weights need OpenFold's features of the protein")
        return
    import openmm.app

    from openmm_starmd.analysis.validity import judge
    from openmm_starmd.files.reading import read_structure
    from openmm_starmd.protein.protein import Protein
    from openmm_starmd.rollout import make_rollout

    pdb = read_structure(Path(openmm.app.__file__).parent / "data" / "test.pdb")
    with warnings.catch_warnings():
        # the file has water in it
        warnings.simplefilter("ignore")
        protein = Protein.from_openmm(pdb.topology, pdb.positions)
    rollout = make_rollout(protein, loaded, stride=loaded.config.stride_default, seed=0, device="cpu")
    try:
        drawn = [rollout.step() for _ in range(frames)]
        finite = all(bool(frame.backbone.isfinite().all() and frame.torsions.isfinite().all()) for frame in drawn)
    except RuntimeError:
        # superposing a frame that is not finite raises
        finite = False
    if not finite:
        yield Check("forward pass", False, "frames of villin are not finite")
        return
    yield Check("forward pass", True, f"finite on villin ({len(protein.residue_types)} residues)")
    alphas = torch.stack([frame.backbone[0, :, 1] for frame in drawn]).numpy()
    valid = judge(alphas, protein.bonded)
    detail = (
        f"{int(valid.valid.sum())} of {frames} frames of villin valid at {loaded.config.stride_default:g} ps (broken "
        f"bonds {int(valid.broken.sum())}, clashes {int(valid.clashes.sum())})"
    )
    yield Check("rollout", bool(valid.valid.all()), detail)


def _check_held_out(folder: Path, held_out: dict[str, str]) -> Iterator[Check]:
    from openmm_starmd.release.identity import LIMIT, identity

    listing = training_data(folder)
    if listing is None:
        yield Check("held-out proteins", None, f"no {TRAINING} to compare with")
        return
    held_out = {p["name"]: p["sequence"] for p in listing.get("held_out", [])} | held_out
    if not held_out:
        yield Check("held-out proteins", None, "none listed")
        return
    try:
        pairs = [
            (identity(p["sequence"], sequence), p["name"], name)
            for p in listing["proteins"] + listing.get("earlier", [])
            for name, sequence in held_out.items()
        ]
    except ImportError as error:
        yield Check("held-out proteins", None, str(error))
        return
    share, trained, name = max(pairs)
    detail = f"nearest of {len(held_out)} is {name}, {100 * share:.0f} % identical to the training protein {trained}"
    yield Check("held-out proteins", share <= LIMIT, f"{detail} (limit {100 * LIMIT:.0f} %)")
