"""Windows, objective and recipe: what is drawn, what is learned, what a killed run leaves."""

import itertools
import json
import shutil
from dataclasses import asdict, replace

import mdtraj
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from openmm_starmd.analysis.flexibility import rmsf
from openmm_starmd.data.batches import Batch, chained
from openmm_starmd.data.trajectories import load_protein
from openmm_starmd.data.windows import WindowDataset, WindowSettings, window_frames
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.errors import StarMDWarning
from openmm_starmd.geometry.rigid import backbone_from_rigids, rigids_from_backbone
from openmm_starmd.geometry.superposition import superposition
from openmm_starmd.model.config import preset
from openmm_starmd.model.frames import initial_estimate
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights, save_weights
from openmm_starmd.rollout import Rollout, kept_frames
from tests.model.test_network import NARROW
from tests.proteins import VILLIN

lightning = pytest.importorskip("lightning", reason="training needs the extra `train`")

from openmm_starmd.cli import app  # noqa: E402
from openmm_starmd.training.average import Average  # noqa: E402
from openmm_starmd.training.checkpoints import RunLog  # noqa: E402
from openmm_starmd.training.module import learning_rate_factor  # noqa: E402
from openmm_starmd.training.objective import noise_batch, objective  # noqa: E402
from openmm_starmd.training.parallelism import Parallelism  # noqa: E402
from openmm_starmd.training.recipe import (  # noqa: E402
    Recipe,
    load_proteins,
    recipe_for,
    released_config,
    train,
    validation_proteins,
)
from openmm_starmd.training.rollouts import roll_out, trials  # noqa: E402
from openmm_starmd.training.settings import (  # noqa: E402
    OptimizerSettings,
    ValidationSettings,
    differences,
    read_recipe,
    recipe_from_dict,
    recipe_objective,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """An ATLAS-style tree of one protein: a fragment of villin that wobbles, its frame number in its Cα."""
    folder = tmp_path_factory.mktemp("atlas")
    start = mdtraj.load(VILLIN)
    start = start.atom_slice(start.topology.select("protein and not element H and resid 1 to 10"))
    start.unitcell_vectors = None
    (folder / "frag").mkdir()
    start.save_pdb(folder / "frag" / "frag.pdb")
    rng = np.random.default_rng(0)
    for replica, frames in ((1, 60), (2, 12)):
        walk = 0.01 * rng.standard_normal((frames, start.n_atoms, 3)).cumsum(0)
        xyz = start.xyz + walk - walk.mean(1, keepdims=True)
        times = np.arange(1, frames + 1, dtype=float)
        mdtraj.Trajectory(xyz, start.topology, time=times).save_xtc(folder / "frag" / f"frag_prod_R{replica}_fit.xtc")
    return folder


def narrow_recipe(steps: int, save_every: int = 1000) -> Recipe:
    return replace(
        recipe_for("mini"),
        model=replace(preset("mini"), **NARROW),
        windows=WindowSettings(tokens=80),
        steps=steps,
        save_every=save_every,
        optimizer=OptimizerSettings(warmup=2),
    )


def test_window_at_stride_k_has_frames_0_k_2k():
    rng = np.random.default_rng(0)
    for frames, length, stride in [(60, 8, 7), (60, 8, 1), (20, 8, 10), (5, 8, 50)]:
        for _ in range(20):
            window = window_frames(frames, length, stride, rng)
            assert 2 <= len(window) <= length and window[0] >= 0 and window[-1] < frames
            assert set(np.diff(window)) == {min(stride, frames - 1)}
            assert len(window) == length or window[-1] + 1 + (length - len(window)) * stride > frames - 1


def test_atlas_tree_is_read(tree):
    protein = load_protein(tree / "frag")
    assert [len(r.backbone) for r in protein.replicas] == [60, 12]
    assert protein.replicas[0].interval == pytest.approx(1.0)
    assert protein.features.length == 10 and len(protein.sequence) == 10
    trajectory = mdtraj.load(str(tree / "frag" / "frag_prod_R1_fit.xtc"), top=str(tree / "frag" / "frag.pdb"))
    alphas = trajectory.xyz[:, trajectory.topology.select("name CA")]
    assert np.array_equal(protein.replicas[0].backbone[:, :, 1], alphas)
    indices, chi1 = mdtraj.compute_chi1(trajectory)
    owner = [trajectory.topology.atom(i[0]).residue.index for i in indices]
    assert np.allclose(protein.replicas[0].torsions[:, owner, 1], chi1)
    assert protein.torsion_mask[owner, 1].all() and protein.torsion_mask[:, 1].sum() == len(owner)
    assert [len(p.replicas) for p in load_proteins([tree], exclude=["frag:2"])] == [1]


def test_incomplete_trees_are_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="missing"):
        load_protein(tmp_path)
    with pytest.raises(ValueError, match="no trajector"):
        load_protein(tree / "frag", replicas=[9])
    with pytest.raises(ValueError, match="no trajectories"):
        load_proteins([tmp_path])
    # two runs in one file: a mean of the gaps would be nobody's stride
    shutil.copytree(tree / "frag", tmp_path / "frag")
    path = tmp_path / "frag" / "frag_prod_R2_fit.xtc"
    trajectory = mdtraj.load(str(path), top=str(tmp_path / "frag" / "frag.pdb"))
    trajectory.time = np.where(np.arange(12) < 6, np.arange(12), np.arange(12) + 50)
    trajectory.save_xtc(path)
    with pytest.raises(ValueError, match=r"R2_fit.xtc: its frames are not evenly spaced: frame 6 at 56 ps"):
        load_protein(tmp_path / "frag")


def test_batches_are_drawn_from_the_step_alone(tree):
    proteins = load_proteins([tree])
    settings = WindowSettings(tokens=160, gap_probability=0.5)
    first, second = (WindowDataset(proteins, settings, 50) for _ in range(2))
    assert torch.equal(first[7].rigids.translations, second[7].rigids.translations)
    assert not torch.equal(first[7].rigids.translations[:, :2], first[8].rigids.translations[:, :2])
    gaps = starts = 0
    reference = proteins[0].features.reference.translations
    for step in range(50):
        batch = first[step]
        translations = batch.rigids.translations
        assert translations[:, 0].mean(-2).abs().max() < 1e-5
        rotation, _ = superposition(translations[:, 1:], translations[:, :-1])
        assert (rotation - torch.eye(3)).abs().max() < 1e-3
        assert not batch.target[:, 0].any() and batch.target[:, 1:].any()
        # a frame across a longer gap than any stride is no target
        assert torch.equal(batch.target[:, 1:], batch.stride[:, 1:] <= settings.stride_max)
        gaps += int((~batch.target[:, 1]).sum())
        starts += int((translations[0, 0] - (reference - reference.mean(0))).abs().max() < 1e-5)
    assert gaps > 0 and starts > 0
    with pytest.raises(IndexError):
        first[50]


def test_reference_is_never_later_than_a_target(tree):
    """A frame of the trajectory as reference precedes every frame that is predicted, of all windows of the batch."""
    protein = load_proteins([tree], exclude=["frag:2"])[0]
    settings = WindowSettings(tokens=160, reference_probability=1.0, length=4)
    dataset = WindowDataset([protein], settings, 30)
    frames = rigids_from_backbone(torch.from_numpy(protein.replicas[0].backbone))
    shape = torch.cdist(frames.translations, frames.translations)  # tells frames apart whatever their pose
    for step in range(30):
        batch = dataset[step]
        distances = torch.cdist(batch.features.reference.translations, batch.features.reference.translations)
        reference = int((shape - distances).abs().amax((1, 2)).argmin())
        drawn = torch.cdist(batch.rigids.translations, batch.rigids.translations)[batch.target]
        numbers = (shape[None] - drawn[:, None]).abs().amax((2, 3)).argmin(1)
        assert reference < numbers.min()


def test_rollout_shows_the_network_what_training_did(tree):
    """History frames of a rollout against the clean copies of the same frames in a training window."""
    features = load_proteins([tree])[0].features
    config = replace(preset("mini"), **NARROW)
    torch.manual_seed(0)
    network = Network(config)
    seen = []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    settings = SamplerSettings(steps=1, context_tau=0.0, max_context=5)
    start = backbone_from_rigids(features.reference).double()[None]
    run = Rollout(network, features, start, stride=10.0, seeds=(0,), settings=settings)
    for _ in range(9):
        run.step()
    # after nine frames the history has been rebuilt: frame 0, a gap, and the newest ones
    numbers = kept_frames(9, 5)
    clean = [frames for frames in seen if not frames.noisy.any()][-len(numbers) :]
    assert numbers[1] > 1 and [int(frames.index[0]) for frames in clean] == list(range(len(numbers)))

    backbone = torch.stack([run.frames()[number][0] for number in numbers])[None]
    gaps = torch.tensor([[10.0] + [10.0 * (b - a) for a, b in itertools.pairwise(numbers)]])
    rigids = chained(rigids_from_backbone(backbone)).to(torch.float32)
    none = torch.zeros(features.length, 5)
    target = torch.ones(1, len(numbers), dtype=torch.bool)
    batch = Batch(features, rigids, torch.zeros(1, len(numbers), *none.shape), none > 0, none > 0, gaps, target, (0, 0))
    quiet = replace(recipe_objective("mini"), context_probability=0.0, jitter_probability=0.0)
    frames = noise_batch(batch, network, quiet).frames
    expected = initial_estimate(frames, config)
    for place, given in enumerate(clean):
        estimate = initial_estimate(given, config)
        assert (estimate.pose[:, 0] - expected.pose[:, place]).abs().max() < 1e-3
        assert given.stride[0, 0] == frames.stride[0, place] and given.anchored[0] == frames.anchored[place]
        assert given.tau[0, 0] == 0 and frames.tau[0, place] == 0
        assert torch.allclose(estimate.scale_translation[0, 0], expected.scale_translation[0, place])
    drawing = [f for f in seen if f.noisy.all()][-1]
    assert drawing.stride[0, 0] == 10.0 and int(drawing.index[0]) == len(kept_frames(8, 5))


def test_noise_has_the_levels_it_says(tree):
    batch = WindowDataset(load_proteins([tree]), WindowSettings(tokens=1600), 1)[0]
    network = Network(replace(preset("mini"), **NARROW))
    settings = replace(recipe_objective("mini"), jitter_probability=0.0)
    noised = noise_batch(batch, network, settings)
    length = batch.rigids.translations.shape[1]
    schedule = network.config.schedule
    alpha = schedule.alpha(noised.tau)[..., None, None]
    residual = noised.frames.rigids.translations[:, length:] - alpha * noised.truth.translations
    standardized = residual / schedule.sigma_translation(noised.tau)[..., None, None]
    assert standardized.std() == pytest.approx(1.0, abs=0.05)
    context = noised.frames.tau[:, :length]
    assert (context <= settings.context_tau).all() and (context == 0).any() and (context > 0).any()
    clean = noised.frames.rigids.map(lambda x: x[:, :length])
    untouched = context == 0
    assert torch.allclose(clean.translations[untouched], batch.rigids.translations[untouched], atol=1e-6)
    again = noise_batch(batch, network, settings)
    assert torch.equal(noised.frames.rigids.translations, again.frames.rigids.translations)


def test_learning_rate_warms_up_and_decays():
    settings = OptimizerSettings(warmup=10)
    factors = [learning_rate_factor(step, 100, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.01) and factors[10] == pytest.approx(1.0) and factors[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


@pytest.mark.slow
def test_mini_learns_the_wobble(tree):
    """The standardised error starts near one by construction and falls below it."""
    torch.manual_seed(0)
    network = Network(replace(preset("mini"), **NARROW))
    dataset = WindowDataset(load_proteins([tree]), WindowSettings(tokens=160), 150)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    history = []
    for step in range(150):
        total, _ = objective(network, dataset[step], recipe_objective("mini"))
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        history.append(total.item())
    assert np.mean(history[-30:]) < 0.85 * np.mean(history[:10])


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(tree, tmp_path):
    proteins = load_proteins([tree])
    unbroken = train(proteins, tmp_path / "a", narrow_recipe(8), accelerator="cpu", progress=False)

    class Killed(Exception):
        pass

    class Killer(WindowDataset):
        def plan(self, step, position=0):
            if step == 6:
                raise Killed
            return super().plan(step, position)

    recipe = narrow_recipe(8, save_every=4)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("openmm_starmd.training.recipe.WindowDataset", Killer)
        train(proteins, tmp_path / "b", recipe, accelerator="cpu", progress=False)
    with pytest.raises(ValueError, match="holds a training run"):
        train(proteins, tmp_path / "b", recipe, accelerator="cpu", progress=False)
    resumed = train(proteins, tmp_path / "b", recipe, resume=True, accelerator="cpu", progress=False)
    first, second = load_weights(unbroken), load_weights(resumed)
    for (name, a), b in zip(first.network.state_dict().items(), second.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_a_recipe_is_its_json(name, tmp_path):
    recipe = recipe_for(name)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(asdict(recipe)))
    assert read_recipe(path) == recipe and read_recipe(path, recipe_for("paper")) == recipe
    part = {"steps": 7, "optimizer": {"learning_rate": 1}, "objective": {"weights": [["fape", 1.0]]}}
    changed = recipe_from_dict(part, recipe)
    assert changed.steps == 7 and changed.optimizer.learning_rate == 1.0 and changed.optimizer.warmup == 200
    assert changed.objective.weights == (("fape", 1.0),) and changed.model == recipe.model
    assert [d.partition(":")[0] for d in differences(recipe, changed)] == [
        "objective.weights",
        "optimizer.learning_rate",
        "steps",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1, "windows": {"lenght": 4}}, r"unknown settings stepz, windows\.lenght"),
        ({"model": {"schedule": {"beta": 1.0}}}, r"unknown settings model\.schedule\.beta"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"steps": True}, "steps is True"),
        ({"windows": 3}, "windows must be a mapping"),
        ({"precision": "16"}, "precision is '16'; choose one of auto, 32, bf16"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"windows": {"stride_min": 0.0}}, "strides 0.0 to"),
        ({"validation": {"frames": 1}}, "validation: .*frames at least 2"),
        ({"objective": {"weights": [["fape"]]}}, "give pairs of a name and a number"),
        ({"objective": {"weights": [["fape", 1.0], ["fape", 1.0]]}}, "a loss twice"),
        ({"objective": {"tau_min": 0}}, "tau_min is 0"),
        ({"objective": {"jitter_probability": 2}}, "jitter_probability is 2"),
    ],
)
def test_recipes_name_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        recipe_from_dict(values)


def test_average_follows_the_weights_and_leaves_them_alone():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    average = Average(layer)
    first = {name: value.clone() for name, value in layer.state_dict().items()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    average.update(0.75)
    full = average.full()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, first[name] + 1.0) and torch.allclose(full[name], first[name] + 0.25)
    other = Average(layer)
    other.load(full)
    assert all(torch.equal(other.full()[name], value) for name, value in full.items())
    assert all(torch.equal(value, first[name] + 1.0) for name, value in layer.state_dict().items())


def test_log_is_cut_to_the_checkpoint(tmp_path):
    log = RunLog(tmp_path / "log.csv", ["loss", "valid/x"])
    log.begin(0)
    for step in range(1, 6):
        log.write(step, {"loss": step / 3} if step != 4 else {"loss": 0.1, "valid/x": 1.0})
    with open(tmp_path / "log.csv", "a") as file:
        file.write("6,0.25")  # torn by a kill
    log.begin(4)
    log.write(5, {"loss": 5 / 3})
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["step", "1", "2", "3", "4", "5"] and rows[4] == ["4", "0.1", "1.0"]
    assert float(rows[1][1]) == 1 / 3 and rows[5] == ["5", repr(5 / 3), ""]
    with pytest.raises(ValueError, match="not the log of this run"):
        RunLog(tmp_path / "log.csv", ["loss"]).begin(4)


@pytest.mark.slow
def test_validation_holds_rollouts_against_md(tree, tmp_path):
    """The replica left out of training is the measure; that of a run of an older edition, what it trains on."""
    trained = load_proteins([tree], exclude=["frag:2"])
    with pytest.warns(StarMDWarning, match="other MD of the same protein"):
        left_out = validation_proteins([tree], ["frag"], ["frag:2"], trained)
    assert [len(replica) for replica in left_out[0].replicas] == [12]
    with pytest.warns(StarMDWarning, match="other MD of the same protein"):
        seen = validation_proteins([tree], ["frag:1"], ["frag:2"], trained, strict=False)
        assert [len(replica) for replica in seen[0].replicas] == [60]
        assert len(validation_proteins([tree], ["frag"], [], trained, strict=False)[0].replicas) == 2
    with pytest.raises(ValueError, match="no MD of nobody"):
        validation_proteins([tree], ["nobody"], [], trained)

    recipe = replace(
        narrow_recipe(4), validation=ValidationSettings(("frag",), every=2, frames=4, stride=2.0), log_every=3
    )
    config = released_config(recipe, trained)
    trial = trials(left_out, recipe.validation, config)[0]
    # twelve frames hold one stretch of four that are two apart
    alphas = left_out[0].replicas[0].rigids(np.arange(0, 8, 2)).translations.double().numpy()
    assert np.allclose(trial.rmsf, rmsf(alphas)) and trial.rmsf.min() > 0
    with pytest.raises(ValueError, match="too short to validate"):
        trials(left_out, replace(recipe.validation, stride=20.0), config)
    with pytest.raises(ValueError, match="outside the 1 to 20 ps"):
        trials(left_out, replace(recipe.validation, stride=100.0), config)
    with pytest.raises(ValueError, match="no frames so far apart"):
        trials(left_out, replace(recipe.validation, stride=2.5), config)
    # fluctuations grow with time: a rollout longer than the MD is compared over the MD's length
    longer = trials(left_out, replace(recipe.validation, frames=8), config)[0]
    assert (longer.frames, longer.compared) == (8, 6) and (trial.frames, trial.compared) == (4, 4)
    network = Network(config).eval()
    whole, part = (roll_out(network, replace(longer, compared=n), "cpu")["rmsf_ratio/frag"] for n in (8, 6))
    assert whole != part
    stuck = spoiled(network)
    assert roll_out(stuck, longer, "cpu")["valid/frag"] == 0.0

    weights = train(trained, tmp_path / "run", recipe, validation=left_out, accelerator="cpu", progress=False)
    rows = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["step", "2", "3", "4"]
    place = rows[0].index("valid/frag")
    assert rows[0][place:] == ["valid/frag", "rmsf_r/frag", "rmsf_ratio/frag"]
    assert rows[1][place] and not rows[1][1], "step 2: rollouts, no losses"
    assert not rows[2][place] and rows[2][1], "step 3: losses, no rollouts"
    # the last row's rollouts are those of the weights that were kept
    again = roll_out(load_weights(weights).network, trial, "cpu")
    assert [float(x) for x in rows[3][place:]] == pytest.approx(list(again.values()), rel=1e-6)
    # and validation leaves training as it is
    plain = train(trained, tmp_path / "plain", replace(recipe, validation=ValidationSettings()), accelerator="cpu")
    for run in ("run", "plain"):
        assert (tmp_path / run / "log.csv").read_text().count("\n") == (4 if run == "run" else 3)
    files = [folder / "model.safetensors" for folder in (weights, plain)]
    assert files[0].read_bytes() == files[1].read_bytes()


def spoiled(network: Network) -> Network:
    """The same with weights that lead where nothing is finite."""
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    return network


def test_a_loss_that_is_not_finite_stops_before_it_is_kept(tree, tmp_path):
    proteins = load_proteins([tree])
    recipe = replace(
        narrow_recipe(4, save_every=2), log_every=4, optimizer=OptimizerSettings(learning_rate=1e30, warmup=0)
    )
    with pytest.raises(ValueError, match="not a finite number"):
        train(proteins, tmp_path, recipe, accelerator="cpu", progress=False)
    values = load_weights(tmp_path / "weights").network.parameters()
    assert not (tmp_path / "last.ckpt").exists() and all(torch.isfinite(v).all() for v in values)


@pytest.mark.slow
def test_command_trains_from_a_file_of_settings(tree, tmp_path):
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"model": NARROW, "steps": 50, "windows": {"tokens": 80}, "save_every": 2}))
    words = ["train", "--data", str(tree), "--config", str(config), "--accelerator", "cpu", "--exclude", "frag:2"]
    runner = CliRunner()
    shown = runner.invoke(app, [*words, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    for word in ("parameters", "activations", "peak memory", "steps/s", "tokens/s", "frag: 1 x 8 frames x 10 residues"):
        assert word in shown.output
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json"}
    run = tmp_path / "run"
    done = runner.invoke(app, [*words, "-o", str(run), "--max-steps", "2", "--tokens", "40", "--checkpointing"])
    assert done.exit_code == 0, done.output
    recipe = read_recipe(run / "recipe.json")
    assert (recipe.steps, recipe.windows.tokens, recipe.checkpointing, recipe.save_every) == (2, 40, True, 2)
    assert recipe.model.name == "run" and json.loads((run / "weights" / "config.json").read_text())["name"] == "run"
    # recipe.json is such a file: recomputing blocks changes nothing, and another token budget is refused by name
    words[words.index(str(config))] = str(run / "recipe.json")
    refused = runner.invoke(app, [*words, "-o", str(run), "--resume", "--max-steps", "3", "--tokens", "80"])
    assert refused.exit_code == 2 and "windows.tokens: 40 -> 80" in refused.output
    resumed = runner.invoke(app, [*words, "-o", str(run), "--resume", "--max-steps", "3"])
    assert resumed.exit_code == 0, resumed.output
    fine = tmp_path / "fine"
    tuned = runner.invoke(
        app, [*words[:3], *words[5:], "-o", str(fine), "--from", str(run / "weights"), "--max-steps", "1"]
    )
    assert tuned.exit_code == 0, tuned.output
    assert read_recipe(fine / "recipe.json").start_from == str(run / "weights")
    for wrong, message in [
        (["train", "-o", "x"], "no data"),
        (words, "--output RUN is missing"),
        ([*words, "-o", str(tmp_path / "y"), "--strategy", "fsdp"], "needs GPUs"),
        ([*words, "-o", str(tmp_path / "y"), "--validate", "nobody"], "no MD of nobody"),
        ([*words, "-o", str(tmp_path / "y"), "--devices", "many"], "devices is 'many'"),
    ]:
        outcome = runner.invoke(app, wrong)
        assert outcome.exit_code == 2 and message in outcome.output, outcome.output
    assert not (tmp_path / "y").exists()


def test_tensorboard_is_asked_for_by_name(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_starmd.training.parallelism.TensorBoardLogger", _missing)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(
            load_proteins([tree]),
            tmp_path / "run",
            narrow_recipe(1),
            parallelism=Parallelism("cpu", logger="tensorboard"),
        )
    assert not (tmp_path / "run").exists()


def _missing(*args, **kwargs):
    raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available")


def test_weights_round_trip_and_refuse_what_does_not_fit(tmp_path):
    torch.manual_seed(0)
    config = replace(preset("mini"), **NARROW, name="narrow")
    network = Network(config)
    save_weights(tmp_path / "w", network, config)
    for source in (tmp_path / "w", tmp_path / "w" / "model.safetensors"):
        weights = load_weights(source)
        assert weights.config == config and weights.name == "narrow"
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights.network.parameters(), strict=True))
    assert not list((tmp_path / "w").glob(".partial*"))
    with pytest.raises(ValueError, match="no weights"):
        load_weights("never-trained")
    save_weights(tmp_path / "w", network, replace(config, c_z=32))
    with pytest.raises(ValueError, match="does not fit"):
        load_weights(tmp_path / "w")
    (tmp_path / "w" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not a configuration"):
        load_weights(tmp_path / "w")
