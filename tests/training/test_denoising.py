"""Denoising as the judge: known errors, the same draws for all, the weights that are kept, and kills."""

import csv
import json
import math
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from openmm_starmd.data.batches import Batch
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.windows import WindowSettings
from openmm_starmd.errors import StarMDWarning
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.config import preset
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights
from tests.model.test_network import NARROW
from tests.proteins import VILLIN

pytest.importorskip("lightning", reason="training needs the extra `train`")

from openmm_starmd.cli import app
from openmm_starmd.training import checkpoints
from openmm_starmd.training.checkpoints import RunLog, lowest, summary
from openmm_starmd.training.denoising import (
    MEAN,
    Denoising,
    DenoisingTest,
    Error,
    draw_windows,
    measure_denoising,
    next_frames,
)
from openmm_starmd.training.objective import noise_batch
from openmm_starmd.training.recipe import (
    has_md,
    read_run_recipe,
    recipe_for,
    train,
    validation_proteins,
)
from openmm_starmd.training.settings import (
    DenoisingSettings,
    ObjectiveSettings,
    OptimizerSettings,
    Recipe,
    ValidationSettings,
)
from openmm_starmd.training.validation import TABLE, Validation, errors_at, table

CONFIG = replace(preset("mini"), **NARROW)
SETTINGS = DenoisingSettings(taus=(0.001, 0.2), strides=(2.0, 10.0, 5000.0), windows=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """An ATLAS-style tree of three fragments of villin that wobble: one trained on, `left` and `other` not."""
    folder = tmp_path_factory.mktemp("atlas")
    whole = mdtraj.load(VILLIN)
    rng = np.random.default_rng(0)
    for name, residues, frames in (
        ("frag", "1 to 8", (40, 30)),
        ("left", "10 to 16", (40, 25)),
        ("other", "20 to 25", (12,)),
    ):
        start = whole.atom_slice(whole.topology.select(f"protein and not element H and resid {residues}"))
        start.unitcell_vectors = None
        (folder / name).mkdir()
        start.save_pdb(folder / name / f"{name}.pdb")
        for replica, count in enumerate(frames, 1):
            walk = 0.005 * rng.standard_normal((count, start.n_atoms, 3)).cumsum(0)
            trajectory = mdtraj.Trajectory(start.xyz + walk, start.topology, time=np.arange(1.0, count + 1))
            trajectory.save_xtc(folder / name / f"{name}_prod_R{replica}_fit.xtc")
    return folder


@pytest.fixture(scope="module")
def proteins(tree):
    return open_data([tree])


class Told(torch.nn.Module):
    """Stands for a network: what it estimates of all frames is a function of what it is given."""

    def __init__(self, estimate) -> None:
        super().__init__()
        self.config, self.estimate = CONFIG, estimate
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def condition(self, features):
        return SimpleNamespace(features=features, elastic=None)

    def forward(self, condition, frames, mask):
        self.seen.append((condition, frames, mask))
        rigids = Rigids(frames.rigids.rotations, self.estimate(frames))
        return SimpleNamespace(frames=lambda begin: SimpleNamespace(rigids=rigids.map(lambda x: x[:, begin:])))


def test_the_last_frame_has_the_last_frame_s_error(proteins):
    found = measure_denoising(Told(lambda frames: frames.anchor.translations), proteins, SETTINGS)
    # `other` has 12 frames of 1 ps, and nobody 5 ns
    assert {(e.protein, e.stride) for e in found.errors} == {
        (p, s) for p in ("frag", "left", "other") for s in (2.0, 10.0)
    }
    assert all(error.rmse == error.last_frame > 0.1 for error in found.errors)
    assert found.loss == 0.0


def test_a_network_that_knows_is_right_and_one_that_is_off_is_off_by_as_much(proteins):
    for windows in draw_windows(proteins, SETTINGS, CONFIG):
        whole = torch.cat([windows.rigids.translations, windows.truth], dim=1)
        assert torch.equal(next_frames(Told(lambda frames, whole=whole: whole), windows, 0.2), windows.truth)
    test = DenoisingTest(proteins[:1], replace(SETTINGS, strides=(10.0,), taus=(0.2,)), CONFIG)
    (windows,) = test.windows
    whole = torch.cat([windows.rigids.translations, windows.truth], dim=1)
    shifted = whole + torch.tensor([0.03, 0.0, 0.04])
    (error,) = test.measure(Told(lambda frames: shifted)).errors
    assert error.rmse == pytest.approx(0.5, rel=1e-5), "0.05 nm are 0.5 Å"
    assert error.last_frame == pytest.approx(
        10 * (windows.last_frame - windows.truth).square().sum(-1).mean().sqrt().item(), rel=1e-5
    )
    assert test.measure(Told(lambda frames: whole)).loss < -20


def test_frames_are_noised_as_much_as_is_said(proteins):
    """The noisy frame itself, its shrinking undone, is off by the noise."""
    many = replace(SETTINGS, strides=(2.0,), windows=30)
    schedule = CONFIG.schedule

    def unshrunk(frames):
        return frames.rigids.translations / schedule.alpha(frames.tau)[..., None, None]

    found = measure_denoising(Told(unshrunk), proteins, many).means
    for error in found:
        tau = torch.tensor(error.tau, dtype=torch.float64)
        width = 10 * math.sqrt(3) * float(schedule.sigma_translation(tau) / schedule.alpha(tau))
        assert error.rmse == pytest.approx(width, rel=0.05)


def test_the_network_is_shown_what_training_shows(proteins):
    """Strides, indices and kinds of frames as of a training pass; anchors are the noised history."""
    windows = draw_windows(proteins, replace(SETTINGS, strides=(2.0,)), CONFIG)[0]
    network = Told(lambda frames: frames.rigids.translations)
    next_frames(network, windows, 0.2)
    ((features, frames, mask),) = network.seen
    samples, length, residues = windows.rigids.translations.shape[:3]
    assert (samples, length, residues) == (3, 4, 8) and mask.frames.shape == (7, 7)
    none = torch.zeros(residues, 5)
    batch = Batch(
        features,
        windows.rigids,
        torch.zeros(samples, length, residues, 5),
        none > 0,
        none > 0,
        torch.full((samples, length), 2.0),
        torch.ones(samples, length, dtype=torch.bool),
        (0, 0),
    )
    quiet = ObjectiveSettings(context_probability=0.0, jitter_probability=0.0)
    trained = noise_batch(batch, Network(CONFIG), quiet).frames
    for name in ("stride", "index", "noisy", "anchored"):
        assert torch.equal(getattr(frames, name), getattr(trained, name)), name
    assert torch.equal(frames.tau[:, length:], torch.full((3, 3), 0.2))
    # contextual noise of a rollout, the anchor's own with it
    context = frames.tau[:, :length]
    assert (context > 0).all() and (context <= CONFIG.context_tau).all() and len(context.unique()) == 12
    assert torch.equal(frames.anchor_tau[:, length:], context[:, :-1])
    assert torch.equal(frames.anchor.translations[:, length:], windows.last_frame)
    off = (windows.history.translations - windows.rigids.translations).square().mean((-2, -1)).sqrt()
    width = CONFIG.schedule.sigma_translation(context) / CONFIG.schedule.alpha(context)
    assert (off / width).mean() == pytest.approx(1.0, abs=0.15)
    # the windows are frames of MD, each superposed on the one before
    true = windows.rigids.translations
    shape = torch.cdist(true, true)
    distances = [
        torch.cdist(r.rigids(np.arange(len(r))).translations, r.rigids(np.arange(len(r))).translations)
        for r in windows.protein.replicas
    ]
    for window in shape:
        nearest = [[(d - frame).abs().amax((1, 2)).min() for frame in window] for d in distances]
        assert min(max(row) for row in nearest) < 1e-5


def test_draws_are_the_same_whatever_else_is_measured(proteins):
    torch.manual_seed(0)
    network = Network(CONFIG).eval()
    whole = measure_denoising(network, proteins, SETTINGS)
    assert whole == measure_denoising(network, proteins, SETTINGS)
    part = measure_denoising(network, proteins[1:], replace(SETTINGS, taus=(0.2,), strides=(10.0,)))
    assert len(part.errors) == 2 and set(part.errors) < set(whole.errors)
    other = measure_denoising(network, proteins, replace(SETTINGS, seed=1))
    assert all(
        a.last_frame != b.last_frame and a.rmse != b.rmse for a, b in zip(whole.errors, other.errors, strict=True)
    )


def test_windows_are_spread_over_replicas(proteins):
    """Of 40 and 30 frames, both are looked at, and no window twice."""
    settings = replace(SETTINGS, strides=(2.0,), windows=6, frames=2)
    (windows,) = draw_windows(proteins[:1], settings, CONFIG)
    frames = torch.cat([r.rigids(np.arange(len(r))).translations for r in windows.protein.replicas])
    first = torch.cdist(windows.rigids.translations[:, 0], windows.rigids.translations[:, 0])
    all_shapes = torch.cdist(frames, frames)
    places = [int((all_shapes - shape).abs().amax((1, 2)).argmin()) for shape in first]
    assert len(set(places)) == 6 and min(places) < 12 and max(places) >= 58
    assert sum(place < 40 for place in places) in (3, 4)


def test_each_protein_counts_once():
    errors = tuple(
        Error(name, 10.0, tau, rmse, last)
        for name, tau, rmse, last in [
            ("a", 0.1, 3.0, 6.0),
            ("b", 0.1, 4.0, 2.0),
            ("a", 0.5, 1.0, 4.0),
            ("b", 0.5, 1.0, 1.0),
        ]
    )
    found = Denoising(errors)
    assert [(m.protein, m.tau) for m in found.means] == [(MEAN, 0.1), (MEAN, 0.5)]
    assert found.means[0].rmse == pytest.approx(math.sqrt(12.5))
    assert found.means[0].last_frame == pytest.approx(math.sqrt(20))
    expected = ((math.log(0.5) + math.log(2)) / 2 + (math.log(0.25) + math.log(1)) / 2) / 2
    assert found.loss == pytest.approx(expected)
    assert Denoising((replace(errors[0], rmse=math.nan), *errors[1:])).loss == math.inf
    lines = table(found.means).splitlines()
    assert lines[0].split() == ["stride", "(ps)", "last", "frame", "τ", "0.1", "τ", "0.5"]
    assert lines[1].split() == ["10", "4.472", "3.536", "1.000"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taus": (0.0, 0.1)}, "taus is"),
        ({"taus": (0.1, 0.1)}, "taus is"),
        ({"strides": ()}, "strides is"),
        ({"strides": (-1.0,)}, "strides is"),
        ({"windows": -1}, "windows is -1"),
        ({"frames": 1}, "frames 1"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def test_what_cannot_be_measured_is_named(proteins):
    with pytest.raises(ValueError, match="each once"):
        DenoisingTest([], SETTINGS, CONFIG)
    with pytest.raises(ValueError, match="each once"):
        DenoisingTest([proteins[0], proteins[0]], SETTINGS, CONFIG)
    with pytest.raises(ValueError, match="windows is 0"):
        DenoisingTest(proteins, replace(SETTINGS, windows=0), CONFIG)
    with pytest.raises(ValueError, match=r"MD of other \(12 frames 1 ps apart\) has no two frames 15 ps apart"):
        DenoisingTest(proteins, replace(SETTINGS, strides=(15.0, 50.0)), CONFIG)
    with pytest.raises(ValueError, match="nothing to validate on a: denoising.windows and frames are both 0"):
        ValidationSettings(("a",), frames=0)
    with pytest.raises(ValueError, match="weight_decay is -1"):
        OptimizerSettings(weight_decay=-1.0)


def small_recipe(**changes) -> Recipe:
    settings = {
        "model": CONFIG,
        "windows": WindowSettings(tokens=64),
        "optimizer": OptimizerSettings(warmup=2),
        "validation": ValidationSettings(("left",), every=2, frames=0, denoising=replace(SETTINGS, windows=1)),
        "steps": 6,
        "save_every": 3,
        "log_every": 3,
    }
    return Recipe(**settings | changes)


def run(tree, folder, recipe, **options) -> Path:
    exclude = ["left", "other"]
    trained = open_data([tree], exclude)
    validation = validation_proteins([tree], recipe.validation.proteins, exclude, trained)
    return train(trained, folder, recipe, validation=validation, accelerator="cpu", progress=False, **options)


def state(folder: Path) -> dict[str, bytes]:
    """What two runs are compared by, to the bit."""
    names = ("weights/model.safetensors", "last/model.safetensors", "log.csv", "validation.csv")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def unbroken(tree, tmp_path_factory):
    """The losses that :func:`scripted` gives, and what an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        networks = scripted(patch)
        run(tree, folder, small_recipe())
    return folder, networks


LOSSES = {0: 0.5, 2: -0.3, 4: -0.7, 6: -0.6}


def scripted(patch) -> dict[int, dict]:
    """Have the network judged as LOSSES says, whatever it gives, and its weights noted by step."""
    judge, seen = Validation.judge, {}
    keep = checkpoints.Checkpointing._keep

    def judged(self, network):
        figures, rows = judge(self, network)
        return figures | {"validation_loss": LOSSES[seen["step"]]}, rows

    def kept(self, network, row):
        seen["step"] = self.step
        seen[self.step] = {name: value.clone() for name, value in network.state_dict().items()}
        return keep(self, network, row)

    patch.setattr(Validation, "judge", judged)
    patch.setattr(checkpoints.Checkpointing, "_keep", kept)
    return seen


@pytest.mark.slow
def test_the_weights_of_the_lowest_loss_are_kept(unbroken):
    folder, networks = unbroken
    for name, step in (("weights", 4), ("last", 6)):
        stored = load_weights(folder / name).network.state_dict()
        assert all(torch.equal(value, networks[step][key]) for key, value in stored.items()), name
        assert json.loads((folder / name / "training_data.json").read_text())["proteins"][0]["name"] == "frag"
    assert not all(torch.equal(networks[4][key], networks[6][key]) for key in networks[4])
    assert lowest(RunLog(folder / "log.csv", []).read()) == (4, -0.7)
    said = summary(folder)
    assert said is not None and said.startswith("kept the weights of step 4, with the lowest validation loss, -0.7000")


@pytest.mark.slow
def test_logs_have_the_table(tree, unbroken):
    folder, networks = unbroken
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert [row["step"] for row in rows] == ["0", "2", "3", "4", "6"]
    assert [row["validation_loss"] for row in rows] == ["0.5", "-0.3", "", "-0.7", "-0.6"]
    assert [bool(row["loss"]) for row in rows] == [False, False, True, False, True]
    lines = list(csv.reader((folder / "validation.csv").open()))
    assert lines[0] == ["step", "protein", "stride", "tau", "rmse", "last_frame"] == ["step", *TABLE]
    # one protein, two strides and two τ, and the same of the mean, at four steps
    assert len(lines) == 1 + 4 * 8 and {line[1] for line in lines[1:]} == {"left", "mean"}
    assert {(line[2], line[3]) for line in lines[1:]} == {(s, t) for s in ("2.0", "10.0") for t in ("0.001", "0.2")}
    # the figures are those of the network at that step, from nothing but the settings
    network = Network(load_weights(folder / "weights").config)
    network.load_state_dict(networks[4])
    settings = small_recipe().validation.denoising
    found = measure_denoising(network, [p for p in open_data([tree]) if p.name == "left"], settings)
    assert errors_at(RunLog(folder / "validation.csv", []).read(), 4) == found
    assert errors_at(RunLog(folder / "validation.csv", []).read(), 2) != found


class Killed(BaseException):
    """Stands for SIGKILL where the moment matters: nothing in the run catches it."""


MOMENTS = {
    "table of step 4, half": (checkpoints.RunLog, "write_rows", 6, False),
    "log of step 4": (checkpoints.RunLog, "write", 4, True),
    "best weights of step 4": (checkpoints, "save_weights", 4, True),
    "newest weights of step 6": (checkpoints, "save_weights", 5, True),
    "checkpoint of step 6": (checkpoints.Checkpointing, "_save", 2, False),
    "everything of step 6": (checkpoints.Checkpointing, "_save", 2, True),
    "before the logs": (checkpoints.Checkpointing, "begin", 1, False),
    "before the first step": (checkpoints.Checkpointing, "judge_start", 1, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_choice_survives_every_moment_to_die(tree, tmp_path, unbroken, moment):
    owner, name, call, done = MOMENTS[moment]
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch)
        with pytest.MonkeyPatch.context() as killing:
            original = getattr(owner, name)

            def dying(*args, **kwargs):
                calls.append(1)
                if len(calls) == call:
                    if done:
                        original(*args, **kwargs)
                    elif name == "write_rows":
                        with args[0].path.open("a") as file:
                            file.write("4,left,2.0,0.001,0.5,1.0\n4,left,2.0")
                    raise Killed
                return original(*args, **kwargs)

            killing.setattr(owner, name, dying)
            with pytest.raises(Killed):
                run(tree, tmp_path / "run", small_recipe())
        load_weights(tmp_path / "run" / "weights")
        run(tree, tmp_path / "run", small_recipe(), resume=True)
    assert state(tmp_path / "run") == state(unbroken[0])
    assert not list((tmp_path / "run").rglob(".partial-*"))


@pytest.mark.slow
def test_a_resumed_run_is_judged_by_the_same_md(tree, tmp_path):
    recipe = small_recipe(steps=3)
    run(tree, tmp_path / "run", recipe)
    trained = open_data([tree], ["left", "other"])
    left = [p for p in open_data([tree]) if p.name == "left"]
    moved = [replace(left[0], replicas=left[0].replicas[:1])]
    with pytest.raises(ValueError, match=r"not what the run began with \(left\)"):
        train(trained, tmp_path / "run", replace(recipe, steps=4), resume=True, validation=moved, accelerator="cpu")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == 3
    run(tree, tmp_path / "run", replace(recipe, steps=4), resume=True)
    # judging leaves training as it is, and without it the newest weights are the weights
    plain = replace(recipe, steps=3, validation=ValidationSettings())
    folder = train(trained, tmp_path / "plain", plain, accelerator="cpu", progress=False)
    assert not (tmp_path / "plain" / "last").exists() and not (tmp_path / "plain" / "validation.csv").exists()
    run(tree, tmp_path / "again", recipe)
    newest = tmp_path / "again" / "last" / "model.safetensors"
    assert newest.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert summary(tmp_path / "plain") is None


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_kept(tree, tmp_path):
    broken = OptimizerSettings(learning_rate=1e30, warmup=0)
    with pytest.raises(ValueError, match="not a finite number"):
        run(tree, tmp_path, small_recipe(optimizer=broken, steps=4, log_every=4))
    assert all(torch.isfinite(value).all() for value in load_weights(tmp_path / "weights").network.parameters())
    losses = [row["validation_loss"] for row in RunLog(tmp_path / "log.csv", []).read()]
    assert len(losses) == 2 and losses[1] == "inf"


def test_what_is_trained_on_is_no_judge(tree):
    exclude = ["frag:2", "left", "other"]
    trained = open_data([tree], exclude)
    for name in ("frag:1", "frag:7"):
        with pytest.raises(ValueError, match=f"{name} is trained on"):
            validation_proteins([tree], [name], exclude, trained)
    with pytest.raises(ValueError, match="frag is trained on.*--exclude frag"):
        validation_proteins([tree], ["frag"], ["left", "other"], open_data([tree], ["left", "other"]))
    for name in ("frag", "frag:2"):
        with pytest.warns(
            StarMDWarning, match="validation on frag: other MD of the same protein is trained on"
        ) as said:
            (found,) = validation_proteins([tree], [name], exclude, trained)
        assert len(said) == 1 and [len(replica) for replica in found.replicas] == [30]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [p.name for p in validation_proteins([tree], ["left"], exclude, trained)] == ["left"]
    # runs that older editions began may go on
    with pytest.warns(StarMDWarning):
        assert validation_proteins([tree], ["frag:1"], exclude, trained, strict=False)[0].name == "frag"
    assert has_md([tree.parent, tree], "left") and not has_md([tree], "nobody")


@pytest.mark.slow
def test_command_leaves_out_and_validates_on_a_split(tree, tmp_path):
    split = tmp_path / "split.json"
    content = {"choose": [{"name": "left"}, {"name": "unmade"}], "report": [{"name": "other", "residues": 6}]}
    split.write_text(json.dumps(content))
    settings = tmp_path / "settings.json"
    recipe = {"model": NARROW, "windows": {"tokens": 64}, "validation": {"every": 2, "denoising": {"taus": [0.2]}}}
    settings.write_text(json.dumps(recipe | {"steps": 2}))
    words = ["train", str(tree), "--accelerator", "cpu", "--split", str(split)]
    runner = CliRunner()

    def invoke(*more):
        return runner.invoke(app, [*words, *map(str, more)])

    planned = invoke("--dry-run", "--config", settings)
    assert planned.exit_code == 0 and " s every 2 steps, " in planned.output, planned.output
    done = invoke("-o", tmp_path / "run", "--config", settings)
    assert done.exit_code == 0, done.output
    assert done.output.count("not validated on unmade: --data holds no MD") == 1
    assert "1 proteins, 2 trajectories" in done.output and "validation on left, which is not trained on" in done.output
    assert "kept the weights of step" in done.output
    listing = json.loads((tmp_path / "run" / "weights" / "training_data.json").read_text())
    assert [p["name"] for p in listing["proteins"]] == ["frag"]
    recipe = read_run_recipe(tmp_path / "run" / "recipe.json")
    assert recipe.validation.proteins == ("left",) and recipe.validation.frames == 0
    assert recipe.validation.denoising == DenoisingSettings(windows=1, taus=(0.2,))
    # going on takes no settings, and no list of proteins that has changed meanwhile
    content["choose"][1]["name"] = "other"
    content["report"] = []
    split.write_text(json.dumps(content))
    resumed = invoke("-o", tmp_path / "run", "--resume", "--max-steps", 3)
    assert resumed.exit_code == 0, resumed.output
    rows = RunLog(tmp_path / "run" / "log.csv", []).read()
    assert [row["step"] for row in rows] == ["0", "2", "3"] and all(row["validation_loss"] for row in rows)
    for text, more, message in [
        ("{}", (), "is not a split of proteins"),
        ('{"choose": [], "report": []}', (), "choose must name proteins"),
        ('{"choose": [{"name": "left"}], "report": [{"name": "left"}]}', (), "none that report names"),
        ('{"choose": [{"name": "nobody"}], "report": []}', (), "hold no MD of the proteins"),
        (json.dumps(content), ("--validate", "frag"), "frag is trained on"),
        (json.dumps(content), ("--resume", "--preset", "paper"), "is of the form mini: leave --preset out"),
    ]:
        split.write_text(text)
        output = tmp_path / ("run" if "--resume" in more else "refused")
        refused = invoke("-o", output, *more)
        assert refused.exit_code == 2 and message in " ".join(refused.output.split()), refused.output
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_run_goes_on_whatever_the_presets_say_now(tree, tmp_path, monkeypatch):
    """Its recipe decides; what that lacks is as the classes have it, as when it was begun."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"model": NARROW, "windows": {"tokens": 64}, "steps": 2, "save_every": 2}))
    words = ["train", str(tree), "--accelerator", "cpu", "-o", str(tmp_path / "run")]
    runner = CliRunner()
    begun = runner.invoke(app, [*words, "--config", str(settings)])
    assert begun.exit_code == 0, begun.output
    # as an older edition would have written it
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    del kept["optimizer"]["weight_decay"], kept["validation"]["denoising"]
    kept["validation"]["frames"] = 20
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(kept))
    changed = replace(recipe_for("mini"), optimizer=OptimizerSettings(learning_rate=3e-4, weight_decay=0.1), seed=5)
    monkeypatch.setattr("openmm_starmd.training.settings.recipe_for", lambda name: changed)
    for more in (["--max-steps", "3"], ["--max-steps", "4", "--config", str(settings)]):
        resumed = runner.invoke(app, [*words, "--resume", *more])
        assert resumed.exit_code == 0, resumed.output
    recipe = read_run_recipe(tmp_path / "run" / "recipe.json")
    assert recipe.optimizer == OptimizerSettings() and recipe.validation == ValidationSettings()
    assert (recipe.steps, recipe.seed, recipe.model.name) == (4, 0, "run")
    refused = runner.invoke(app, [*words, "--resume", "--tokens", "32"])
    assert refused.exit_code == 2 and "windows.tokens: 64 -> 32" in refused.output


def test_new_runs_denoise_and_older_ones_do_not():
    for name in ("mini", "paper"):
        settings = recipe_for(name).validation
        assert settings.denoising.windows == 1 and settings.frames == 0
    assert ValidationSettings().denoising.windows == 0 and ValidationSettings().frames == 20
    assert asdict(Recipe())["validation"]["denoising"]["windows"] == 0
