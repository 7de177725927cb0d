"""Windows, objective and recipe: what is drawn, what is learned, what a killed run leaves."""

from dataclasses import replace

import mdtraj
import numpy as np
import pytest
import torch

from openmm_starmd.data.trajectories import load_protein
from openmm_starmd.data.windows import Batch, WindowDataset, WindowSettings, chained, window_frames
from openmm_starmd.geometry.rigid import backbone_from_rigids, rigids_from_backbone, superposition
from openmm_starmd.model.config import preset
from openmm_starmd.model.frames import initial_estimate
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights, save_weights
from openmm_starmd.rollout import Rollout
from openmm_starmd.sampling import SamplerSettings, kept_frames

from .proteins import VILLIN
from .test_network import NARROW

lightning = pytest.importorskip("lightning", reason="training needs the extra `train`")

from openmm_starmd.training.module import learning_rate_factor  # noqa: E402
from openmm_starmd.training.objective import noise_batch, objective, recipe_objective  # noqa: E402
from openmm_starmd.training.recipe import Recipe, load_proteins, recipe_for, train  # noqa: E402
from openmm_starmd.training.settings import OptimizerSettings  # noqa: E402


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
    gaps = torch.tensor([[10.0] + [10.0 * (b - a) for a, b in zip(numbers, numbers[1:], strict=False)]])
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
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


def test_mini_learns_the_wobble(tree):
    """The standardised error starts near one by construction and falls below it."""
    torch.manual_seed(0)
    network = Network(replace(preset("mini"), **NARROW))
    dataset = WindowDataset(load_proteins([tree]), WindowSettings(tokens=160), 150)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    history = []
    for step in range(150):
        total, terms = objective(network, dataset[step], recipe_objective("mini"))
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        history.append(total.item())
    assert np.mean(history[-30:]) < 0.85 * np.mean(history[:10])


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
