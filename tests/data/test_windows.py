"""Every batch that training draws has something to learn from, whatever the data's clock and the proteins' length."""

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from openmm_starmd.data.trajectories import LoadedReplica, ProteinData
from openmm_starmd.data.windows import COLD_SPREAD, WindowDataset, WindowSettings, limited
from openmm_starmd.geometry.rigid import backbone_from_rigids
from tests.proteins import villin_features, wobbling_frames


def protein(name: str, *intervals: float, frames: int = 60, residues: int = 10) -> ProteinData:
    """A peptide with a trajectory at each interval, ps."""
    features = villin_features(residues)
    backbone = backbone_from_rigids(wobbling_frames(features, frames, seed=1))[0].numpy().astype(np.float32)
    exists = np.ones((residues, 5), dtype=bool)
    torsions = np.zeros((frames, residues, 5), dtype=np.float32)
    replicas = tuple(LoadedReplica(backbone, torsions, interval) for interval in intervals)
    return ProteinData(name, "A" * residues, features, replicas, exists, ~exists)


@functools.cache
def pool() -> list[ProteinData]:
    """Four proteins with long trajectories, one of them with three, and twelve with short ones; of two lengths."""
    long = [protein("long0", 1.0, 1.0, 1.0, frames=400), *(protein(f"long{n}", 1.0, frames=400) for n in (1, 2))]
    middle = [protein(f"middle{n}", 1.0, frames=110, residues=14) for n in range(3)]
    return [*long, *middle, *(protein(f"short{n}", 1.0, frames=20, residues=10 + 4 * (n % 2)) for n in range(12))]


@pytest.mark.parametrize(
    ("interval", "changes"),
    [
        # two frames a window: a frame in front of it would lie too far from the only target
        (1.0, {"tokens": 20, "gap_probability": 1.0, "stride_max": 2.0, "stride_focus": 2.0}),
        # seven frames are nearer to the longest stride than six, and beyond it
        (3.0, {"focus_probability": 1.0, "stride_focus": 20.0}),
        # the rounding of a file's single-precision clock
        (1.0000002, {"focus_probability": 1.0, "stride_focus": 20.0}),
    ],
)
def test_every_batch_has_a_frame_to_predict(interval, changes):
    dataset = WindowDataset([protein("a", interval)], WindowSettings(**changes), 200)
    plans = [dataset.plan(step) for step in range(200)]
    assert min(plan.counted for plan in plans) >= 1
    strides = np.concatenate([plan.stride[:, 1:][plan.target[:, 1:]] for plan in plans])
    assert strides.max() <= dataset.longest


def test_trajectories_without_near_frames_are_left_out_aloud():
    with pytest.raises(
        ValueError, match=r"frames 100 ps apart.*windows.stride_max 20 ps, in 1 of 1 trajectories \(a\)"
    ):
        WindowDataset([protein("a", 100.0)], WindowSettings(), 1)
    with pytest.warns(UserWarning, match=r"left out: frames 100 ps apart .* in 1 of 3 trajectories \(a\)"):
        dataset = WindowDataset([protein("a", 100.0, 1.0), protein("b", 2.0)], WindowSettings(), 50)
    assert {dataset.plan(step).replica.interval for step in range(50)} == {1.0, 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gap_probability": 1.5}, "gap_probability is 1.5"),
        ({"torsion_dropout": -0.1}, "torsion_dropout is -0.1"),
        ({"share_max": 0.0}, "share_max is 0.0"),
        ({"cold_probability": -1.0}, "cold_probability is -1.0"),
        ({"deformation_probability": 2.0}, "deformation_probability is 2.0"),
        ({"deviation_dropout": 1.1}, "deviation_dropout is 1.1"),
        ({"deformation": 0.0}, "deformation is 0.0"),
        ({"stride_max": 5.0}, "stride_focus is 10 ps, outside stride_min 1 to stride_max 5 ps"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(WindowSettings(), **changes)


def test_what_is_above_the_limit_goes_to_the_others_in_proportion():
    weights, owners = np.array([3.0, 3.0, 2.0, 1.0, 1.0]), np.array([0, 0, 1, 2, 3])
    assert np.allclose(limited(weights, owners, 1.0), weights / 10)
    # 0.6 is cut to 0.4, and 0.2, 0.1 and 0.1 share the rest
    assert np.allclose(limited(weights, owners, 0.4), [0.2, 0.2, 0.3, 0.15, 0.15])
    # then 0.35 is too much as well
    assert np.allclose(limited(weights, owners, 0.28), [0.14, 0.14, 0.28, 0.22, 0.22])
    # fewer than 1 / 0.2 owners; the fifth has no weight
    assert np.allclose(limited(np.append(weights, 0.0), np.append(owners, 4), 0.2), [0.125, 0.125, 0.25, 0.25, 0.25, 0])


@pytest.mark.parametrize(
    ("stride", "able"),
    [(1.0, 18), (10.0, 18), (25.0, 6), (60.0, 6), (120.0, 3)],
)
@pytest.mark.parametrize("position", [0, 2])
def test_no_protein_has_more_than_its_share_of_the_draws_at_any_stride(stride, able, position):
    settings = WindowSettings(stride_max=200.0, stride_focus=stride, focus_probability=1.0, gap_probability=0.0)
    draws, found, proteins = 1000, {}, pool()
    for share in (1.0, 0.1):
        dataset = WindowDataset(proteins, replace(settings, share_max=share), draws)
        numbers = [dataset._choose(step, position)[0] for step in range(draws)]
        found[share] = Counter(dataset.trajectories[number][0].name for number in numbers)
    # with a limit, all that is drawn shows the stride
    assert {float(dataset.plan(step, position).stride[0, -1]) for step in range(50)} == {stride}
    assert len(found[0.1]) == able
    highest = {share: max(counts.values()) / draws for share, counts in found.items()}
    limit = max(0.1, 1 / able)
    assert highest[0.1] < limit + 4 * np.sqrt(limit * (1 - limit) / draws)
    assert highest[1.0] > limit + 0.05, "the draws need no limit, so the test shows nothing"
    if able < 10:
        assert min(found[0.1].values()) / draws > limit - 4 * np.sqrt(limit * (1 - limit) / draws)


def test_a_share_holds_over_all_strides_and_the_batches_of_a_step_have_one_stride():
    dataset = WindowDataset(pool(), WindowSettings(stride_max=200.0, focus_probability=0.3, share_max=0.1), 300)
    for step in range(300):
        chosen = [dataset._choose(step, position) for position in range(3)]
        assert len({stride for _, stride, _ in chosen}) == 1
        assert len({dataset.buckets[number] for number, _, _ in chosen}) == 1


@pytest.mark.parametrize("interval", [1.0, 2.0])
def test_cold_windows_are_the_beginning_of_a_rollout(interval):
    known = protein("a", interval, frames=60)
    settings = WindowSettings(cold_probability=1.0, stride_max=40.0, tokens=250, reference_probability=1.0)
    dataset = WindowDataset([known], settings, 40)
    replica, lengths = known.replicas[0], set()
    for step in range(40):
        plan = dataset.plan(step)
        batch = dataset.read(plan)
        assert plan.from_start and plan.reference is None and plan.target[:, 1:].all() and not plan.target[:, 0].any()
        lengths.add(plan.target.shape[1])
        apart = plan.stride[:, :1] / interval
        assert (plan.stride == plan.stride[:, :1]).all() and plan.stride.max() <= dataset.longest
        # frame k strides after the start is number k strides - 1 of the file, whose first lies one interval after it
        assert np.array_equal(plan.index, apart * np.arange(1, plan.index.shape[1] + 1) - 1)
        assert apart.max() <= COLD_SPREAD * apart[0] and apart.min() >= apart[0] / COLD_SPREAD
        # the first frame is the PDB file's structure, the others are the trajectory's, up to the chained superposition
        start = known.features.reference.translations
        windows = [batch.rigids.translations, replica.rigids(plan.index).translations]
        distances = [
            torch.cdist(frames, frames)
            for frames in (windows[0], torch.cat([start.expand(len(plan.index), 1, *start.shape), windows[1]], 1))
        ]
        assert torch.allclose(*distances, atol=1e-5)
    assert max(lengths) == 8 and min(lengths) < 8
    assert batch.features is known.features, "the reference is the one that rollouts have"


def test_cold_windows_come_as_often_as_asked():
    dataset = WindowDataset(pool(), WindowSettings(cold_probability=0.25, gap_probability=0.0), 600)
    cold = np.mean([dataset.plan(step).from_start for step in range(600)])
    assert abs(cold - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 600)


def test_augmentation_leaves_the_windows_as_they_are():
    """So two runs that differ in it alone see the same frames."""
    proteins = pool()
    plain = WindowDataset(proteins, WindowSettings(), 200)
    varied = WindowDataset(proteins, WindowSettings(deformation_probability=0.6, deviation_dropout=0.3), 200)
    pairs = [(plain.plan(step), varied.plan(step)) for step in range(200)]
    for before, after in pairs:
        assert before.key == after.key and np.array_equal(before.index, after.index)
        assert before.reference == after.reference and before.hide_torsions == after.hide_torsions
        assert not before.deform and not before.hide_deviation
    assert not any(plan.deform and (plan.from_start or plan.reference is not None) for _, plan in pairs)
    able = [plan.deform for _, plan in pairs if not plan.from_start and plan.reference is None]
    assert abs(np.mean(able) - 0.6) < 4 * np.sqrt(0.24 / len(able))
    assert abs(np.mean([plan.hide_deviation for _, plan in pairs]) - 0.3) < 4 * np.sqrt(0.21 / 200)


def test_a_batch_follows_from_its_key_alone():
    settings = WindowSettings(deformation_probability=1.0, deviation_dropout=0.5, share_max=0.2, cold_probability=0.2)
    first, second = (WindowDataset(pool(), settings, 20) for _ in range(2))
    changed = 0
    for step in reversed(range(20)):  # in another order, as after a restart
        one, other = first[step], second[step]
        assert torch.equal(one.features.reference.translations, other.features.reference.translations)
        assert torch.equal(one.rigids.translations, other.rigids.translations)
        assert one.features.hide_deviation == other.features.hide_deviation
        plan = first.plan(step)
        own = plan.protein.features.reference.translations
        assert plan.deform != torch.equal(one.features.reference.translations, own) or plan.reference is not None
        changed += plan.deform
    assert changed > 3
