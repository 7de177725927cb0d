"""A training run killed by SIGKILL at any moment ends as an undisturbed one."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from benchmarks import kill_training
from openmm_starmd.model.config import preset
from openmm_starmd.model.weights import load_weights
from tests.model.test_network import NARROW
from tests.proteins import VILLIN

pytest.importorskip("lightning", reason="training needs the extra `train`")

from openmm_starmd.data.folders import open_data
from openmm_starmd.data.windows import WindowSettings
from openmm_starmd.files.writing import lock
from openmm_starmd.training import checkpoints
from openmm_starmd.training.recipe import train
from openmm_starmd.training.settings import OptimizerSettings, Recipe


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A fragment of villin that wobbles, in ATLAS layout."""
    folder = tmp_path_factory.mktemp("atlas")
    start = mdtraj.load(VILLIN)
    start = start.atom_slice(start.topology.select("protein and not element H and resid 1 to 8"))
    start.unitcell_vectors = None
    (folder / "frag").mkdir()
    start.save_pdb(folder / "frag" / "frag.pdb")
    wobble = 0.005 * np.random.default_rng(0).standard_normal((40, start.n_atoms, 3)).cumsum(0)
    trajectory = mdtraj.Trajectory(start.xyz + wobble, start.topology, time=np.arange(1.0, 41.0))
    trajectory.save_xtc(folder / "frag" / "frag_prod_R1_fit.xtc")
    return folder


@pytest.fixture(scope="module")
def recipe():
    return Recipe(
        model=replace(preset("mini"), **NARROW),
        windows=WindowSettings(tokens=64),
        optimizer=OptimizerSettings(warmup=2),
        steps=7,
        save_every=2,
        log_every=1,
    )


@pytest.fixture(scope="module")
def unbroken(tree, recipe, tmp_path_factory):
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("unbroken")
    train(open_data([tree]), folder, recipe, accelerator="cpu", progress=False)
    return state(folder)


def state(run: Path) -> tuple[bytes, ...]:
    """What two runs are compared by, to the bit."""
    return tuple((run / name).read_bytes() for name in ("weights/model.safetensors", "weights/config.json", "log.csv"))


@pytest.mark.slow
def test_killed_processes_end_as_an_undisturbed_one(tree, tmp_path):
    """The benchmark, with two kills of a small network."""
    config = {"model": NARROW, "windows": {"tokens": 64}, "save_every": 1}
    outcome = kill_training.measure(tree, "frag", 2, 30, 1, config, tmp_path)
    assert len(outcome["kills"]) == 2 and all(kill["sound"] for kill in outcome["kills"])
    assert all(outcome["equal"].values()) and outcome["rows"] == 30


class Killed(BaseException):
    """Stands for SIGKILL where the moment matters: nothing in the run catches it."""


MOMENTS = ["log", "weights", "checkpoint unfinished", "checkpoint not renamed", "after"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment_of_saving_is_a_good_one_to_die(tree, tmp_path, recipe, unbroken, moment):
    proteins = open_data([tree])

    def die_at(step: int, what):
        """Run `what` before dying, once the run has come to `step`."""

        def patched(*args, **kwargs):
            calls.append(1)
            if len(calls) == step:
                what(*args, **kwargs)
                raise Killed
            return original(*args, **kwargs)

        return patched

    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        if moment == "log":
            original, owner, name, step = checkpoints.RunLog.write, checkpoints.RunLog, "write", 6
            what = lambda self, number, values: open(self.path, "a").write("6,0.5,")  # noqa: E731
        elif moment == "weights":
            original, owner, name, step = checkpoints.save_weights, checkpoints, "save_weights", 3
            what = original
        elif moment == "after":
            original, owner, name, step = os.replace, os, "replace", 0
            what = original
        else:
            original, owner, name, step = checkpoints.Checkpointing._save, checkpoints.Checkpointing, "_save", 3
            if moment == "checkpoint unfinished":
                what = lambda self, trainer: (self.folder / ".partial-0-last.ckpt").write_bytes(b"PK half")  # noqa: E731
            else:
                what = lambda self, trainer: trainer.save_checkpoint(self.folder / ".partial-0-last.ckpt")  # noqa: E731
        if moment == "after":

            def renamed(source, target):
                original(source, target)
                if Path(target).name == "last.ckpt":
                    calls.append(1)
                    if len(calls) == 3:
                        raise Killed

            patch.setattr(owner, name, renamed)
        else:
            patch.setattr(owner, name, die_at(step, what))
        with pytest.raises(Killed):
            train(proteins, tmp_path / "b", recipe, accelerator="cpu", progress=False)
    load_weights(tmp_path / "b" / "weights")
    kept = torch.load(tmp_path / "b" / "last.ckpt", weights_only=False)["global_step"]
    assert kept == (6 if moment == "after" else 4)
    train(proteins, tmp_path / "b", recipe, resume=True, accelerator="cpu", progress=False)
    assert state(tmp_path / "b") == unbroken
    assert not list((tmp_path / "b").rglob(".partial-*"))


@pytest.mark.slow
def test_weights_are_complete_before_the_first_step(tree, tmp_path, recipe, unbroken):
    proteins = open_data([tree])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(
            "openmm_starmd.training.module.StarMDModule.training_step", lambda *a: (_ for _ in ()).throw(Killed)
        )
        train(proteins, tmp_path / "run", recipe, accelerator="cpu", progress=False)
    assert load_weights(tmp_path / "run" / "weights").config.max_length == 8
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"weights", "log.csv", "recipe.json"}
    # begun, though without a checkpoint: to begin again takes --resume
    with pytest.raises(ValueError, match="holds a training run"):
        train(proteins, tmp_path / "run", recipe, accelerator="cpu", progress=False)
    train(proteins, tmp_path / "run", recipe, resume=True, accelerator="cpu", progress=False)
    assert state(tmp_path / "run") == unbroken


def test_two_processes_cannot_train_into_one_folder(tree, tmp_path, recipe):
    proteins = open_data([tree])
    output = tmp_path / "run"
    output.mkdir()
    hold = "\n".join(
        [
            "import sys, time",
            "from pathlib import Path",
            "from openmm_starmd.files.writing import lock",
            "with lock(Path(sys.argv[1]), 'training into'):",
            "    print('held', flush=True)",
            "    time.sleep(600)",
        ]
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(output)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is training into"):
            train(proteins, output, recipe, accelerator="cpu", progress=False)
        assert not any(output.iterdir())
    finally:
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with lock(output, "training into"):
                break
        except ValueError:
            time.sleep(0.05)
    train(proteins, output, replace(recipe, steps=1), accelerator="cpu", progress=False)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_settings_and_data(tree, tmp_path, recipe):
    proteins = open_data([tree])
    output = tmp_path / "run"
    train(proteins, output, replace(recipe, steps=2), accelerator="cpu", progress=False)
    changed = replace(recipe, seed=3, windows=replace(recipe.windows, tokens=32))
    with pytest.raises(ValueError, match=r"windows\.tokens: 64 -> 32; seed: 0 -> 3"):
        train(proteins, output, changed, resume=True, accelerator="cpu", progress=False)
    with pytest.raises(ValueError, match="2 steps behind it, and 1 were asked for"):
        train(proteins, output, replace(recipe, steps=1), resume=True, accelerator="cpu", progress=False)
    renamed = [replace(proteins[0], name="other")]
    with pytest.raises(ValueError, match="these proteins differ from it: frag, other"):
        train(renamed, output, recipe, resume=True, accelerator="cpu", progress=False)
    assert json.loads((output / "recipe.json").read_text())["steps"] == 2
    train(proteins, output, recipe, resume=True, accelerator="cpu", progress=False)
    rows = (output / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", *map(str, range(1, 8))]


def test_folders_of_others_are_refused(tree, tmp_path, recipe):
    (tmp_path / "log.csv").write_text("mine\n")
    with pytest.raises(ValueError, match=r"holds log\.csv, but no recipe\.json"):
        train(open_data([tree]), tmp_path, recipe, resume=True, accelerator="cpu", progress=False)
    assert (tmp_path / "log.csv").read_text() == "mine\n"
