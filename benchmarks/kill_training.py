"""Kills a training run at random moments and compares what it ends with to an undisturbed run, bit by bit.

    python -m benchmarks.kill_training                        # ten kills of a small real run (2beg_A, 27 residues)
    python -m benchmarks.kill_training --data STORE --protein NAME --kills 3 --steps 30

The run is that of the command: ``openmm-starmd train``, preset `mini`, a checkpoint every few steps, so that many kills
fall into the writing of one. Each kill is SIGKILL, after which the files are looked at and the same command is given
again with ``--resume``. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.lib.paths import RESULTS, ROOT
from benchmarks.lib.results_page import write_json
from openmm_starmd.model.weights import load_weights

DATA = ROOT.parent / "shared" / "data" / "md"


@dataclass(frozen=True)
class Kill:
    """What one kill found and left.

    Attributes
    ----------
    seconds : float
        After the start of the process.
    began : bool
        Whether the process had come so far as to look into the folder.
    checkpoint : int
        Steps behind the checkpoint on disk; 0 for none.
    logged : int
        Last step in the log.
    torn : bool
        Whether a file was being written.
    sound : bool
        Whether checkpoint and weights, where there are some, can be read.
    """

    seconds: float
    began: bool
    checkpoint: int
    logged: int
    torn: bool
    sound: bool


def command(data: Path, protein: str, settings: Path, output: Path) -> list[str]:
    """The training command; all other proteins of the data are left out."""
    others = [p.name for p in sorted(data.iterdir()) if p.is_dir() and p.name != protein]
    exclude = [word for name in others for word in ("--exclude", name)]
    words = ["train", "--data", str(data), "--config", str(settings), "--output", str(output), "--name", "killed"]
    return [sys.executable, "-m", "openmm_starmd.cli", *words, "--accelerator", "cpu", "--resume", *exclude]


def start(words: list[str]) -> subprocess.Popen:
    """Start a training of one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(process: subprocess.Popen) -> None:
    """Wait for the end; a RuntimeError if it was not a good one."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"training ended with {process.returncode}: {errors.decode()[-2000:]}")


def changed(path: Path) -> int:
    """When a file was last written, ns; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_once(words: list[str], output: Path, rng: random.Random, startup: float, span: float) -> Kill | None:
    """Start, kill at a random moment, look at the files; None if the run had ended before.

    One kill in five falls into the start of the process, the others within `span` seconds of training.
    """
    marker = output / "recipe.json"
    before, began_at = changed(marker), time.monotonic()
    process = start(words)
    early = rng.random() < 0.2
    wait = rng.uniform(0, startup if early else span)
    while not early and process.poll() is None and changed(marker) == before:
        time.sleep(0.01)
    try:
        process.wait(wait)
        finish(process)
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    seconds = time.monotonic() - began_at
    process.communicate()
    return look(output, seconds, changed(marker) != before)


def look(output: Path, seconds: float, began: bool) -> Kill:
    """Read what a kill left."""
    checkpoint, rows = output / "last.ckpt", []
    if (output / "log.csv").exists():
        rows = [line for line in (output / "log.csv").read_text().splitlines()[1:] if line]
    torn = any(output.glob(".partial*")) or any(output.glob("weights/.partial*"))
    steps, sound = 0, True
    try:
        if checkpoint.exists():
            steps = torch.load(checkpoint, weights_only=False, map_location="cpu")["global_step"]
        if (output / "weights").exists():
            load_weights(output / "weights")
    except Exception as error:  # whatever reading a broken file raises is the finding
        print(f"broken after the kill: {type(error).__name__}: {error}", file=sys.stderr)
        sound = False
    return Kill(round(seconds, 2), began, steps, int(rows[-1].split(",")[0]) if rows else 0, torn, sound)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measure(data: Path, protein: str, kills: int, steps: int, seed: int, config: dict, folder: Path) -> dict:
    """Run undisturbed and killed, and compare.

    Parameters
    ----------
    data : Path
        Folder of training data.
    protein : str
        Its protein to train on.
    kills, steps, seed : int
    config : dict
        Settings of the recipe.
    folder : Path
        Where the two runs go.

    Returns
    -------
    dict
        For JSON.
    """
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"save_every": 3, "log_every": 1, **config, "steps": steps}))
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    began = time.monotonic()
    process = start(command(data, protein, settings, undisturbed))
    while process.poll() is None and not changed(undisturbed / "recipe.json"):
        time.sleep(0.02)
    startup = time.monotonic() - began
    finish(process)
    training = time.monotonic() - began - startup

    rng, found = random.Random(seed), []
    words = command(data, protein, settings, killed)
    # so long that the kills together reach well into the run, and do not reach its end
    span = 1.6 * training / kills
    ended = False
    while len(found) < kills and not ended:
        kill = kill_once(words, killed, rng, startup, span)
        if kill is None:
            ended = True
        else:
            found.append(kill)
            print(f"kill {len(found)}: {kill}", flush=True)
    finish(start(words))
    files = ("weights/model.safetensors", "weights/config.json", "log.csv")
    equal = {name: digest(undisturbed / name) == digest(killed / name) for name in files}
    first, second = (torch.load(run / "last.ckpt", weights_only=False) for run in (undisturbed, killed))
    for name, part in (
        ("weights", lambda ckpt: ckpt["state_dict"]),
        ("average", lambda ckpt: ckpt["starmd"]["average"]),
    ):
        one, other = part(first), part(second)
        equal[f"last.ckpt, {name}"] = one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    return {
        "protein": protein,
        "steps": steps,
        "seconds_undisturbed": round(startup + training, 1),
        "kills": [asdict(kill) for kill in found],
        "equal": equal,
        "rows": len((killed / "log.csv").read_text().splitlines()) - 1,
        "sha256": digest(killed / files[0]),
    }


def table(outcome: dict) -> str:
    """The outcome as Markdown."""
    lines = [
        f"{outcome['protein']}, {outcome['steps']} steps, undisturbed {outcome['seconds_undisturbed']} s",
        "",
        "| kill | after, s | run begun | checkpoint at step | last row of the log | file torn | files sound |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, kill in enumerate(outcome["kills"], 1):
        words = [str(number), f"{kill['seconds']:.2f}", *("yes" if kill[k] else "no" for k in ("began",))]
        words += [str(kill["checkpoint"]), str(kill["logged"])]
        words += ["yes" if kill[k] else "no" for k in ("torn", "sound")]
        lines.append("| " + " | ".join(words) + " |")
    same = ", ".join(f"{name} {'equal' if equal else 'DIFFERENT'}" for name, equal in outcome["equal"].items())
    return "\n".join([*lines, "", f"Against the undisturbed run: {same}; {outcome['rows']} rows in the log."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of training data")
    parser.add_argument("--protein", default="2beg_A", help="protein of it to train on")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, default=RESULTS / "kill_training.json")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        outcome = measure(
            arguments.data, arguments.protein, arguments.kills, arguments.steps, arguments.seed, {}, Path(folder)
        )
    print(table(outcome))
    write_json(arguments.json, outcome)
    if not all(outcome["equal"].values()) or not all(kill["sound"] for kill in outcome["kills"]):
        sys.exit(1)
    if len(outcome["kills"]) < arguments.kills:
        sys.exit(f"the run ended after {len(outcome['kills'])} of {arguments.kills} kills: give more --steps")


if __name__ == "__main__":
    main()
