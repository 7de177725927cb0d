"""A run in a directory: frames, topology, log and checkpoint on disk, safe to kill, resumed to the very same frames.

What makes it safe: reporters flush every frame, and a checkpoint is renamed into place only after the frames it
counts. On resume, trajectory and log are cut back to the frames of the checkpoint, and the rollout goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm import app, unit

from openmm_starmd.files.cutting import cut_lines, truncate
from openmm_starmd.files.reading import read_structure
from openmm_starmd.files.writing import lock, replacing, sweep, write_text

if TYPE_CHECKING:
    from openmm_starmd.calibration import Calibration
    from openmm_starmd.simulation import StarMDSimulation

DEFAULT_SEED = 0
FORMATS = ("dcd", "xtc")


@dataclass(frozen=True)
class RunSettings:
    """What decides the frames of a run. None stands for the default, or on resume for what the run has.

    Attributes
    ----------
    stride : float or None
        ps.
    seed : int or None
    atoms : str or None
        ``"ca"``, ``"backbone"`` or ``"heavy"``.
    weights : str or None
        Bundled name, or path.
    steps : int or None
        Denoising steps per frame.
    format : str or None
        ``"dcd"`` or ``"xtc"``.
    calibrate : float or None
        ps of classical MD that the amplitude of the protein's motion is fitted to first; None for none.
    """

    stride: float | None = None
    seed: int | None = None
    atoms: str | None = None
    weights: str | None = None
    steps: int | None = None
    format: str | None = None
    calibrate: float | None = None


LATER = {"calibrate": None, "calibration": None}
"""What configurations of older versions lack, with what it is then."""


def read_config(path: Path) -> dict[str, Any]:
    """Configuration of a run on disk.

    Parameters
    ----------
    path : Path
        A ``config.json``.

    Returns
    -------
    dict
        The fields of :class:`RunSettings`, ``sha256`` of the input, ``calibration`` (what it found, or None), and more
        for the reader's information.

    Raises
    ------
    ValueError
        If it is no such file.
    """
    try:
        config = LATER | json.loads(path.read_text())
        missing = ({f.name for f in fields(RunSettings)} | {"sha256"}) - set(config)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not the configuration of a run: {error}") from error
    if missing:
        raise ValueError(f"{path} is not the configuration of a run: it lacks {', '.join(sorted(missing))}")
    return config


def merge(settings: RunSettings, digest: str, config: dict[str, Any], path: Path) -> RunSettings:
    """Settings of the run on disk, if what was asked for does not contradict them.

    Parameters
    ----------
    settings : RunSettings
        As asked for; None agrees with anything.
    digest : str
        SHA-256 of the input.
    config : dict
        From :func:`read_config`.
    path : Path
        Where it lies.

    Returns
    -------
    RunSettings

    Raises
    ------
    ValueError
        If something differs; names all of it.
    """
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    changed = [
        f"{name} is {'the default' if config[name] is None else config[name]}, not {value}"
        for name, value in given.items()
        if config[name] != value
    ]
    if config["sha256"] != digest:
        changed.insert(0, f"it was begun from {config.get('input')}, and this input has other contents")
    if changed:
        raise ValueError(
            f"cannot resume the run in {path.parent}: {'; '.join(changed)}. Leave these options out, or choose "
            "another --output"
        )
    return RunSettings(**{f.name: config[f.name] for f in fields(RunSettings)})


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    frames : int
        On disk now.
    interrupted : bool
    speed : float
        ns/day over the frames drawn by this call; nan if there were none.
    """

    frames: int
    interrupted: bool
    speed: float


def run(
    structure: str | os.PathLike[str],
    frames: int,
    output: str | os.PathLike[str],
    settings: RunSettings | None = None,
    *,
    device: str | None = None,
    resume: bool = False,
    checkpoint_interval: int = 10,
    progress: bool = True,
    on_calibration: Callable[[Calibration], None] | None = None,
) -> Outcome:
    """Draw frames into a directory.

    Writes ``config.json``, ``topology.pdb`` (the start structure), ``trajectory.dcd`` or ``.xtc``, ``log.csv``,
    ``checkpoint.chk``, and at the end ``picture.png`` and ``summary.json``.

    Parameters
    ----------
    structure : path
        PDB or mmCIF file.
    frames : int
        Frames in all; a resumed run draws those that are missing.
    output : path
        Directory, made if there is none.
    settings : RunSettings, optional
    device : str, optional
        Where the network runs. It may change on resume, but then frames agree only to rounding.
    resume : bool
        Resume the run in `output` if there is one.
    checkpoint_interval : int
        Frames between checkpoints; a kill costs at most these.
    progress : bool
        Show a bar on stderr.
    on_calibration : callable, optional
        Called with what the calibration found, if this call runs one; a resumed run has it from ``config.json``.

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError
        If the input cannot be used, `output` holds a run and `resume` is False, or settings differ from that run's.
    """
    import torch

    from openmm_starmd.calibration import calibrated_length

    if frames < 1:
        raise ValueError(f"frames is {frames}; at least one is needed")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings, folder = settings or RunSettings(), Path(output)
    config_path = folder / "config.json"
    pdb = read_structure(structure)
    digest = hashlib.sha256(Path(structure).read_bytes()).hexdigest()
    if config_path.exists():
        if not resume:
            raise ValueError(f"{folder} holds a run already: add --resume to go on with it, or choose another --output")
        settings = merge(settings, digest, read_config(config_path), config_path)
    simulation, settings = _simulation(pdb, settings, device)
    shown = progress and sys.stderr is not None
    if settings.calibrate is not None:
        calibrated_length(simulation, settings.calibrate)
    files = _Files(folder, f"trajectory.{settings.format}")
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "drawing into"):
        sweep(folder)
        resumed = files.config.exists() and files.checkpoint.exists()
        if resumed:
            _resume(files, simulation)
        else:
            found = read_config(files.config)["calibration"] if files.config.exists() else None
            if not files.config.exists():
                _refuse_to_overwrite(folder)
            if found is None and settings.calibrate is not None:
                calibration = _calibrate(simulation, settings.calibrate, shown)
                found = asdict(calibration)
                if on_calibration is not None:
                    on_calibration(calibration)
            elif found is not None:
                simulation.integrator.set_amplitude(found["log_amplitude"])
            config = asdict(settings) | {"calibration": found}
            config |= {"input": str(structure), "sha256": digest, "device": device}
            _begin(files, simulation, config)
        device_then = read_config(files.config).get("device")
        if device_then != device:
            warnings.warn(
                f"the run was begun on {device_then}: frames will agree with it only to rounding", stacklevel=2
            )

        done, began = simulation.currentStep, time.perf_counter()
        interrupted = _draw(simulation, frames, files, resumed, checkpoint_interval, shown)
        drawn, seconds = simulation.currentStep - done, time.perf_counter() - began
        stride = simulation.stride.value_in_unit(unit.picosecond)
        speed = 86.4 * drawn * stride / seconds if drawn else float("nan")
        # a run that was asked for no more frames than it has keeps its summary, and the speed in it
        if not interrupted and (drawn or _summarised_frames(files.summary) != done):
            _summarise(files, settings, simulation.amplitude, stride, speed)
        return Outcome(simulation.currentStep, interrupted, speed)


@dataclass(frozen=True)
class _Files:
    """Files of a run."""

    folder: Path
    trajectory_name: str

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def topology(self) -> Path:
        return self.folder / "topology.pdb"

    @property
    def trajectory(self) -> Path:
        return self.folder / self.trajectory_name

    @property
    def log(self) -> Path:
        return self.folder / "log.csv"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.chk"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def picture(self) -> Path:
        return self.folder / "picture.png"


def _simulation(
    pdb: app.PDBFile | app.PDBxFile, settings: RunSettings, device: str
) -> tuple[StarMDSimulation, RunSettings]:
    """The simulation of a run, and the settings with its defaults filled in."""
    from openmm_starmd.model.weights import DEFAULT_WEIGHTS
    from openmm_starmd.simulation import StarMDSimulation

    seed = DEFAULT_SEED if settings.seed is None else settings.seed
    weights = DEFAULT_WEIGHTS if settings.weights is None else settings.weights
    format = "dcd" if settings.format is None else settings.format
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; choose dcd or xtc")
    simulation = StarMDSimulation(
        pdb.topology,
        pdb.positions,
        stride=settings.stride,
        seed=seed,
        weights=weights or DEFAULT_WEIGHTS,
        atoms=settings.atoms,
        steps=settings.steps,
        device=device,
    )
    stride = simulation.stride.value_in_unit(unit.picosecond)
    return simulation, replace(
        settings, seed=seed, weights=weights, format=format, stride=stride, atoms=simulation.atoms
    )


def _refuse_to_overwrite(folder: Path) -> None:
    """Raise a ValueError if the directory holds files of somebody else under the names a run writes."""
    names = ["topology.pdb", "log.csv", "checkpoint.chk", *(f"trajectory.{ending}" for ending in FORMATS)]
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise ValueError(
            f"{folder} holds {', '.join(there)}, which no run with a config.json there wrote: choose another --output"
        )


def _begin(files: _Files, simulation: StarMDSimulation, config: dict[str, Any]) -> None:
    """Write configuration and topology; leftovers of a run that never reached a checkpoint go."""
    write_text(files.config, json.dumps(config, indent=1) + "\n")
    for leftover in (files.trajectory, files.log, files.checkpoint):
        leftover.unlink(missing_ok=True)
    positions = simulation.context.getState(positions=True).getPositions()
    with replacing(files.topology) as temporary, temporary.open("w") as file:
        app.PDBFile.writeFile(simulation.topology, positions, file, keepIds=True)


def _calibrate(simulation: StarMDSimulation, picoseconds: float, progress: bool) -> Calibration:
    """Calibrate with a bar; nothing is on disk until it has ended."""
    from tqdm import tqdm

    with tqdm(unit="ps", desc="calibrating", disable=not progress) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(1)

        return simulation.calibrate(picoseconds, on_frame=show)


def _resume(files: _Files, simulation: StarMDSimulation) -> None:
    """Load the checkpoint, and cut trajectory and log back to the frames it knows of."""
    simulation.loadCheckpoint(str(files.checkpoint))
    truncate(files.trajectory, simulation.currentStep)
    if files.log.exists():
        cut_lines(files.log, simulation.currentStep + 1)  # and the header


def _draw(
    simulation: StarMDSimulation, frames: int, files: _Files, append: bool, checkpoint_interval: int, progress: bool
) -> bool:
    """Draw the missing frames; True if a signal ended it before the last."""
    from tqdm import tqdm

    reporter = app.XTCReporter if files.trajectory.suffix == ".xtc" else app.DCDReporter
    simulation.reporters.append(reporter(str(files.trajectory), 1, append=append and simulation.currentStep > 0))
    simulation.reporters.append(
        app.StateDataReporter(str(files.log), 1, step=True, time=True, speed=True, elapsedTime=True, append=append)
    )
    stride = simulation.stride.value_in_unit(unit.picosecond)
    first, began = simulation.currentStep, time.perf_counter()
    with (
        _signals_as_flag() as stopped,
        tqdm(total=frames, initial=min(first, frames), unit="frame", disable=not progress) as bar,
    ):
        while simulation.currentStep < frames and not stopped:
            simulation.step(1)
            speed = 86.4 * stride * (simulation.currentStep - first) / (time.perf_counter() - began)
            bar.set_postfix_str(f"{speed:.0f} ns/day", refresh=False)
            bar.update(1)
            if simulation.currentStep % checkpoint_interval == 0:
                simulation.saveCheckpoint(str(files.checkpoint))
        if simulation.currentStep > first:
            simulation.saveCheckpoint(str(files.checkpoint))
    simulation.reporters.clear()
    return simulation.currentStep < frames


@contextmanager
def _signals_as_flag() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a frame is always finished; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # only the main thread may set handlers; elsewhere the caller's own stay in force
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summarised_frames(path: Path) -> int | None:
    """Frames that a summary on disk is of; None if there is none."""
    return json.loads(path.read_text()).get("frames") if path.exists() else None


def _summarise(files: _Files, settings: RunSettings, amplitude: float, stride: float, speed: float) -> None:
    """Write picture.png and summary.json; `stride` in ps, `speed` in ns/day."""
    import mdtraj

    from openmm_starmd.analysis.validity import alpha_carbons
    from openmm_starmd.evaluation.picture import draw, figures

    start = mdtraj.load(str(files.topology))
    trajectory = mdtraj.load(str(files.trajectory), top=start.topology, atom_indices=alpha_carbons(start.topology))
    found = figures(trajectory, start, stride)
    summary = {
        "frames": trajectory.n_frames,
        "residues": len(found["residue"]),
        "stride_ps": stride,
        "length_ps": stride * trajectory.n_frames,
        "valid_fraction": float(found["valid"].mean()),
        "rmsd_to_start_nm": {"mean": float(found["rmsd"].mean()), "sd": float(found["rmsd"].std())},
        "radius_of_gyration_nm": {"mean": float(found["rg"].mean()), "sd": float(found["rg"].std())},
        "rmsf_mean_nm": float(found["rmsf"].mean()) if trajectory.n_frames > 1 else None,
        "speed_ns_per_day": None if math.isnan(speed) else speed,
        "settings": asdict(settings),
    }
    if settings.calibrate is not None:
        summary["amplitude"] = amplitude
    write_text(files.summary, json.dumps(summary, indent=1) + "\n")
    try:
        draw(files.picture, found, title=f"{trajectory.n_frames} frames, {stride:g} ps apart")
    except ImportError as error:
        warnings.warn(f"no picture.png: {error}", stacklevel=2)
