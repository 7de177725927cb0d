"""Whether two versions of the package give the same bits, on one machine and in one run.

    python benchmarks/same_bits.py OLD_CHECKOUT [--new CHECKOUT] [--only NAME ...] [--keep FOLDER]

Every task below runs in a process of its own, first with the package in OLD_CHECKOUT and then with the one in CHECKOUT,
by default the one around this file. What the old version left half done (checkpoint, State, run, training, policy log)
is gone on with by the old version and, from a copy of the same files, by the new one. The files that a task leaves in
``compared/`` are held against each other: arrays, trajectories, tensors and text by their bytes, JSON without the
seconds that it took. A table is printed, and the exit status is 1 if anything differs or fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HOMES = {
    "Network": ("model.network",),
    "preset": ("model.config",),
    "save_weights": ("model.weights",),
    "WindowSettings": ("data.windows",),
    "StarMDSimulation": ("simulation",),
    "command": ("cli",),
}
"""Modules that a name is looked for in, the newest layout's first: all that is used of the package beside its API."""
NAMES = {"command": "app"}
"""What a name is called there, if not so."""

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "starmd-mini-v2"
FRAMES = 50
REFERENCE = {"platform": "Reference"}
PROTEINS = ("1vii_A", "5a7u_A")
TINY = {
    "c_s": 16, "c_z": 8, "blocks": 2, "conditioner_layers": 1, "conditioner_s": 16, "conditioner_z": 8, "ipa_heads": 2,
    "ipa_hidden": 4, "ipa_query_points": 2, "ipa_value_points": 2, "attention_heads": 2, "attention_hidden": 16,
}  # fmt: skip
RECIPE = {
    "model": TINY, "windows": {"tokens": 300}, "validation": {"frames": 20}, "save_every": 5, "log_every": 1,
}  # fmt: skip
AS_BEFORE = {"share_max": 1.0, "cold_probability": 0.0, "deformation_probability": 0.0, "deviation_dropout": 0.0}
"""Settings of windows that presets have now, as the first edition had them."""
SECONDS = ("seconds",)
GROWING = ("recipe.json", "training_data.json")
"""Files that hold every setting there is: those that only the newer version has are not compared."""


def find(name: str) -> Any:
    """A name of the package, in whichever layout it has."""
    for home in HOMES[name]:
        try:
            module = importlib.import_module(f"openmm_starmd.{home}")
        except ModuleNotFoundError:
            continue
        return getattr(module, NAMES.get(name, name))
    raise ImportError(f"{name} lies in none of {', '.join(HOMES[name])}: add its module to HOMES")


# --- what a worker does, in a process that sees one version of the package ---


def villin() -> Path:
    """Villin in water, of the openmm package."""
    from openmm import app

    return Path(app.__file__).parent / "data" / "test.pdb"


def make_simulation(atoms: str = "backbone", weights: str | Path = WEIGHTS, **options: Any) -> Any:
    """StarMDSimulation of villin on the CPU, seed 1."""
    from openmm import app

    pdb = app.PDBFile(str(villin()))
    kind = find("StarMDSimulation")
    return kind(pdb.topology, pdb.positions, atoms=atoms, weights=weights, device="cpu", **({"seed": 1} | options))


def positions_of(simulation: Any) -> np.ndarray:
    """Positions [atoms, 3], nm."""
    from openmm import unit

    return simulation.context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def draw(simulation: Any, frames: int) -> np.ndarray:
    """The next frames [frames, atoms, 3], nm."""
    drawn = []
    for _ in range(frames):
        simulation.step(1)
        drawn.append(positions_of(simulation))
    return np.array(drawn)


def invoke(*words: object, code: int = 0) -> None:
    """Run the command ``openmm-starmd`` in this process; another exit code than `code` is a RuntimeError."""
    from typer.testing import CliRunner

    outcome = CliRunner().invoke(find("command"), [str(word) for word in words])
    if outcome.exit_code != code:
        raise RuntimeError(f"{words} ended in {outcome.exit_code}: {outcome.output}") from outcome.exception


@contextmanager
def interrupted_after(frames: int) -> Iterator[None]:
    """Send this process a SIGINT, as Ctrl-C does, once a simulation has come to a frame."""
    kind = find("StarMDSimulation")
    original = kind.step

    def step(self: Any, steps: int) -> None:
        original(self, steps)
        if self.currentStep == frames:
            os.kill(os.getpid(), signal.SIGINT)

    kind.step = step
    try:
        yield
    finally:
        kind.step = original


class Place:
    """Where a task works.

    Attributes
    ----------
    own : Path
        For whatever it needs.
    compared : Path
        For what must be equal.
    old : Path
        What the old version has in `own` of the same task; in the old version's own run the same as `own`.
    is_old : bool
    root : Path
        The folders `own` of all tasks of this version lie in it, by the names of the tasks.
    """

    def __init__(self, name: str, root: Path, old: Path) -> None:
        self.root, self.own, self.old, self.is_old = root, root / name, old / name, root == old
        self.compared = self.own / "compared"
        self.compared.mkdir(parents=True)

    def copy(self, name: str) -> Path:
        """A copy, in `compared`, of what the old version left under `name`."""
        shutil.copytree(self.old / name, self.compared / name)
        return self.compared / name


def frames_task(atoms: str) -> Callable[[Place], None]:
    """Task that draws 50 frames of villin."""

    def task(place: Place) -> None:
        np.save(place.compared / "frames.npy", draw(make_simulation(atoms, stride=10), FRAMES))

    return task


def checkpoint_task(kind: str) -> Callable[[Place], None]:
    """Task that saves after 9 frames, when some have left the history, and goes on for 5."""

    def task(place: Place) -> None:
        if place.is_old:
            simulation = make_simulation()
            simulation.step(9)
            getattr(simulation, f"save{kind}")(place.own / "saved")
            # the unbroken future
            np.save(place.compared / "following.npy", draw(simulation, 5))
        else:
            simulation = make_simulation(seed=99)
            getattr(simulation, f"load{kind}")(place.old / "saved")
            np.save(place.compared / "following.npy", draw(simulation, 5))
            # and to and fro: what this version saves is what it loads
            getattr(simulation, f"save{kind}")(place.own / "again")
            future = draw(simulation, 2)
            getattr(simulation, f"load{kind}")(place.own / "again")
            if not np.array_equal(draw(simulation, 2), future):
                raise RuntimeError(f"what save{kind}() saved does not go on as the simulation did")

    return task


def segment_checkpoint_task(place: Place) -> None:
    """Checkpoint in the middle of a classical stride."""
    settings = {**REFERENCE, "minimize": 20, "equilibrate": 0.02}
    simulation = make_simulation("heavy", stride=1)
    if place.is_old:
        simulation.step(1)
    else:
        simulation.loadCheckpoint(place.old / "saved")
    with simulation.classical(**settings) as md:
        if place.is_old:
            md.step(240)
            simulation.saveCheckpoint(place.own / "saved")
        md.step(10)
        classical = positions_of(simulation)
    np.save(place.compared / "frames.npy", np.array([classical, *draw(simulation, 2)]))


def run_task(place: Place) -> None:
    """A run stopped by Ctrl-C at frame 7 and resumed."""
    words = ["run", villin(), "--device", "cpu", "--frames", 12, "-o"]
    if place.is_old:
        with interrupted_after(7):
            invoke(*words, place.own / "stopped", "--seed", 1, "--atoms", "heavy", code=130)
    run = place.copy("stopped")
    invoke(*words, run, "--resume")
    # OpenMM's checkpoint holds bytes that nobody sets, the log and the summary how long things took
    for name in ("checkpoint.chk", "log.csv", "picture.png"):
        (run / name).unlink(missing_ok=True)
    summary = json.loads((run / "summary.json").read_text())
    summary.pop("speed_ns_per_day")
    (run / "summary.json").write_text(json.dumps(summary))


def classical_task(place: Place) -> None:
    """A segment of one stride between learned frames."""
    simulation = make_simulation("heavy", stride=1)
    frames = [draw(simulation, 2)]
    with simulation.classical(**REFERENCE, minimize=20, equilibrate=0.1) as md:
        frames.append(draw(simulation, 1))
        inner = positions_of(md)
    frames.append(draw(simulation, 2))
    np.save(place.compared / "frames.npy", np.concatenate(frames))
    np.save(place.compared / "all_atoms.npy", inner)


def alternate_task(place: Place) -> None:
    """One cycle by the old version, with a log, and the second by both."""
    options = {"surrogate": 2, "classical": 1, "duration": 0.1, "minimize": 20, "settings": REFERENCE}
    simulation = make_simulation("backbone", stride=1)
    if place.is_old:
        (place.own / "begun").mkdir()
        simulation.alternate(
            cycles=1, log=place.own / "begun" / "log.jsonl", trajectory=place.own / "begun" / "frames.dcd", **options
        )
        simulation = make_simulation("backbone", stride=1)
    folder = place.copy("begun")
    simulation.alternate(cycles=2, log=folder / "log.jsonl", trajectory=folder / "frames.dcd", **options)
    np.save(place.compared / "following.npy", draw(simulation, 2))
    (folder / "log.chk").unlink()


def alternate_anew_task(place: Place) -> None:
    """One cycle from the start."""
    simulation = make_simulation("heavy", stride=1)
    log = place.compared / "log.jsonl"
    simulation.alternate(cycles=1, surrogate=2, classical=1, duration=0.1, minimize=20, log=log, settings=REFERENCE)
    log.with_suffix(".chk").unlink()
    np.save(place.compared / "frames.npy", draw(simulation, 2))


def validate_task(place: Place) -> None:
    """A verdict on the sixth frame, and one on a frame that somebody tore."""
    simulation = make_simulation("heavy", stride=10)
    simulation.step(6)
    simulation.validate(0.1, minimize=20, **REFERENCE).save(place.compared / "verdict.json")
    torn = positions_of(simulation)
    torn[[atom.index for atom in simulation.topology.atoms() if atom.residue.index > 17]] += 0.3
    simulation.context.setPositions(torn)
    simulation.validate(0, minimize=5, stop_if_broken=True, **REFERENCE).save(place.compared / "torn.json")


def cut_md(folder: Path) -> Path:
    """Two proteins of ``benchmarks/data`` in ATLAS layout, cut short; both versions read the same files."""
    import mdtraj

    if not folder.exists():
        for name in PROTEINS:
            source, target = ROOT / "benchmarks" / "data" / name, folder / name
            target.mkdir(parents=True)
            shutil.copy(source / f"{name}.pdb", target)
            for number, frames in ((1, 60), (2, 30)):
                file = f"{name}_prod_R{number}_fit.xtc"
                mdtraj.load(str(source / file), top=str(source / f"{name}.pdb"))[:frames].save_xtc(str(target / file))
    return folder


def prepare_task(place: Place) -> None:
    """A store of two proteins."""
    invoke("prepare", cut_md(place.root.parent / "atlas"), "-o", place.compared / "store")


def train(data: Path, output: Path, steps: int, recipe: dict[str, Any], *more: object) -> None:
    """Train a tiny network, by the rules of the first edition where the package has others as well."""
    from dataclasses import fields

    if "share_max" in {field.name for field in fields(find("WindowSettings"))}:
        recipe = recipe | {"windows": recipe["windows"] | AS_BEFORE}
    settings = output.with_name(f"{output.name}.settings.json")
    settings.write_text(json.dumps(recipe))
    words = ["train", "--data", data, "--config", settings, "--accelerator", "cpu", "--name", "tiny"]
    invoke(*words, "--max-steps", steps, "-o", output, *more)
    settings.unlink()
    # a pickle of the whole state, that the run of the next task goes on from; weights and log tell what is in it
    if "compared" in output.parts:
        (output / "last.ckpt").unlink()


def training_task(recipe: dict[str, Any], store: bool = True) -> Callable[[Place], None]:
    """Task of 20 training steps, on the old version's store or on the trajectories themselves."""

    def task(place: Place) -> None:
        atlas = cut_md(place.root.parent / "atlas")
        data = place.old.parent / "prepare" / "compared" / "store" if store else atlas
        train(data, place.compared / "run", 20, recipe)

    return task


def resumed_training_task(place: Place) -> None:
    """Ten steps by the old version, ten more by both."""
    store = place.old.parent / "prepare" / "compared" / "store"
    if place.is_old:
        train(store, place.own / "begun", 10, RECIPE)
    train(store, place.copy("begun"), 20, RECIPE, "--resume")


def tiny_task(form: str, attention: str) -> Callable[[Place], None]:
    """Task that saves a tiny network with random numbers in all its branches and draws 20 frames by it."""

    def task(place: Place) -> None:
        from dataclasses import replace

        import torch

        config = replace(
            find("preset")(form),
            **TINY,
            attention=attention,
            steps=6,
            max_context=5,
            max_length=100,
            torsions_trained=True,
            name="tiny",
        )
        torch.manual_seed(1)
        network = find("Network")(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn(parameter.shape)
        find("save_weights")(place.compared / "weights", network, config)
        simulation = make_simulation("heavy", place.old / "compared" / "weights")
        np.save(place.compared / "frames.npy", draw(simulation, 20))

    return task


def backmap_task(place: Place) -> None:
    """All atoms for the frames of a backbone, placed only and minimised, and for a CA trace."""
    from openmm import app

    for atoms, frames in (("backbone", 5), ("ca", 3)):
        simulation = make_simulation(atoms, stride=10)
        trajectory = place.own / f"{atoms}.xtc"
        simulation.reporters.append(app.XTCReporter(str(trajectory), 1))
        simulation.step(frames)
    words = ["backmap", place.own / "backbone.xtc", "--topology", villin(), "--to", "all", "--platform", "Reference"]
    invoke(*words, "-o", place.compared / "placed.xtc")
    invoke(*words, "-o", place.compared / "minimised.xtc", "--minimize", "--iterations", 5)
    words[1] = place.own / "ca.xtc"
    invoke(*words, "-o", place.compared / "from_ca.xtc", "--geometry", "ideal")


TASKS: dict[str, tuple[str, Callable[[Place], None]]] = {
    **{
        f"frames-{atoms}": (f"50 frames of villin, {atoms}", frames_task(atoms))
        for atoms in ("ca", "backbone", "heavy")
    },
    "checkpoint": ("checkpoint of old, next 5 frames", checkpoint_task("Checkpoint")),
    "state": ("State XML of old, next 5 frames", checkpoint_task("State")),
    "segment-checkpoint": ("checkpoint of old inside a segment, next 3 frames", segment_checkpoint_task),
    "run": ("run stopped by old, resumed", run_task),
    "classical": ("classical segment, Reference", classical_task),
    "alternate": ("alternate(), one cycle, Reference", alternate_anew_task),
    "alternate-resumed": ("alternate() begun by old, resumed", alternate_task),
    "validate": ("validate(), Reference", validate_task),
    "prepare": ("prepare, store", prepare_task),
    "train": ("20 training steps, weights and log", training_task(RECIPE)),
    "train-tree": ("20 training steps from ATLAS folders", training_task(RECIPE, store=False)),
    "train-resumed": ("training begun by old, resumed", resumed_training_task),
    "tiny-paper": ("tiny network of the paper's form, 20 frames", tiny_task("paper", "joint")),
    "tiny-separable": ("tiny network, separable attention, 20 frames", tiny_task("paper", "separable")),
    "tiny-mini": ("tiny network of the mini form, 20 frames", tiny_task("mini", "joint")),
    "backmap": ("backmap to all atoms", backmap_task),
}
"""Of each task, by its name: how the table calls it, and what it does. Later ones use what earlier ones left."""


def work(name: str, root: Path, old: Path, checkout: Path) -> None:
    """Do one task with the package that this process sees, which must be the one in `checkout`."""
    import torch

    import openmm_starmd

    package = Path(openmm_starmd.__file__).resolve().parents[1]
    if package != checkout:
        raise RuntimeError(f"the package was imported from {package}, not from {checkout}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    TASKS[name][1](Place(name, root, old))


# --- what the process that compares does ---


def start(name: str, root: Path, old: Path, checkout: Path) -> str:
    """Run a task in a process of its own; what went wrong, or an empty string."""
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "OPENMM_CPU_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    words = [sys.executable, str(Path(__file__).resolve()), "--worker", name, str(root), str(old), str(checkout)]
    done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def without_seconds(content: Any) -> Any:
    """JSON content without the times that something took."""
    if isinstance(content, dict):
        return {name: without_seconds(value) for name, value in content.items() if name not in SECONDS}
    if isinstance(content, list):
        return [without_seconds(value) for value in content]
    return content


def known_to(one: Any, two: Any) -> Any:
    """`two` without the names, of mappings in it, that `one` does not have."""
    if isinstance(one, dict) and isinstance(two, dict):
        return {name: known_to(one[name], value) for name, value in two.items() if name in one}
    return two


def difference_of(one: Any, two: Any) -> str:
    """The first place where two JSON contents differ, with both values."""
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(one, dict) and isinstance(two, dict) and list(one) == list(two):
        pairs = [(name, one[name], two[name]) for name in one]
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = [(number, a, b) for number, (a, b) in enumerate(zip(one, two, strict=True))]
    for place, a, b in pairs:
        if json.dumps(a) != json.dumps(b):
            return f"{place} {difference_of(a, b)}"
    return f"{str(one)[:60]} -> {str(two)[:60]}"


def numbers_of(path: Path) -> np.ndarray | None:
    """All numbers in an array, tensor or trajectory file; None for other files."""
    if path.suffix == ".npy":
        return np.load(path).ravel()
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])
    if path.suffix in (".dcd", ".xtc"):
        from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile

        with (DCDTrajectoryFile if path.suffix == ".dcd" else XTCTrajectoryFile)(str(path)) as file:
            return file.read()[0].ravel()
    return None


def compare(first: Path, second: Path) -> tuple[bool, str]:
    """Whether two files are equal, and by how much their numbers differ at most."""
    if first.suffix in (".json", ".jsonl"):
        lines = [
            [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines() for path in (first, second)
        ]
        one, two = ([without_seconds(json.loads(line)) for line in part] for part in lines)
        if first.name in GROWING:
            two = [known_to(*pair) for pair in zip(one, two, strict=True)]
        equal = json.dumps(one) == json.dumps(two)
        return equal, "0" if equal else difference_of(one, two)
    if first.read_bytes() == second.read_bytes():
        return True, "0"
    one, two = numbers_of(first), numbers_of(second)
    if one is None or two is None:
        return False, ""
    if one.shape != two.shape:
        return False, f"{len(one)} and {len(two)} numbers"
    return False, f"{np.abs(one.astype(float) - two.astype(float)).max():.3g}"


def compare_folders(first: Path, second: Path) -> tuple[bool, str]:
    """Whether two folders hold the same files with the same content; and which do not, by how much at most."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (first, second)
    ]
    differing = [f"{name} is only in one" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        equal, difference = compare(first / name, second / name)
        if not equal:
            differing.append(f"{name} {difference}".strip())
    if not names[0]:
        differing.append("nothing to compare")
    return not differing, "; ".join(differing) or "0"


def main() -> int:
    """Compare two checkouts; 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("--new", type=Path, default=ROOT, help="the checkout of this file by default")
    parser.add_argument("--only", nargs="+", choices=sorted(TASKS), help="tasks; all by default")
    parser.add_argument("--keep", type=Path, help="folder, not there yet, to leave the files in")
    arguments = parser.parse_args()
    checkouts = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    for checkout in checkouts.values():
        if not (checkout / "openmm_starmd" / "__init__.py").is_file():
            parser.error(f"{checkout} is no checkout: it holds no openmm_starmd")
    chosen = [name for name in TASKS if arguments.only is None or name in arguments.only]
    if {"train", "train-resumed"} & set(chosen) and "prepare" not in chosen:
        chosen.insert(0, "prepare")
    equal = True
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) if arguments.keep is None else arguments.keep.resolve()
        roots = {side: base / side for side in checkouts}
        for root in roots.values():
            root.mkdir(parents=True)
        print("| what | equal | largest difference | seconds, old and new |\n|---|---|---|---|")
        for name in chosen:
            wrong, seconds = [], []
            for side, checkout in checkouts.items():
                began = time.perf_counter()
                failure = start(name, roots[side], roots["old"], checkout)
                seconds.append(time.perf_counter() - began)
                if failure:
                    print(f"{name}, {side}: {failure}", file=sys.stderr)
                    wrong.append(f"{side} failed: {failure.splitlines()[-1]}")
                    break
            same, what = False, "; ".join(wrong)
            if not wrong:
                same, what = compare_folders(*(root / name / "compared" for root in roots.values()))
            equal &= same
            took = " and ".join(f"{value:.0f}" for value in seconds)
            print(f"| {TASKS[name][0]} | {'yes' if same else 'NO'} | {what} | {took} |", flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], *map(Path, sys.argv[3:6]))
    else:
        sys.exit(main())
