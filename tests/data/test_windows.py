"""Every batch that training draws has something to learn from, whatever the data's clock and the proteins' length."""

from dataclasses import replace

import numpy as np
import pytest

from openmm_starmd.data.trajectories import LoadedReplica, ProteinData
from openmm_starmd.data.windows import WindowDataset, WindowSettings
from openmm_starmd.geometry.rigid import backbone_from_rigids
from tests.proteins import villin_features, wobbling_frames


def protein(name: str, *intervals: float, frames: int = 60) -> ProteinData:
    """Ten residues with a trajectory at each interval, ps."""
    features = villin_features(10)
    backbone = backbone_from_rigids(wobbling_frames(features, frames, seed=1))[0].numpy().astype(np.float32)
    exists = np.ones((10, 5), dtype=bool)
    torsions = np.zeros((frames, 10, 5), dtype=np.float32)
    replicas = tuple(LoadedReplica(backbone, torsions, interval) for interval in intervals)
    return ProteinData(name, "A" * 10, features, replicas, exists, ~exists)


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
        ({"stride_max": 5.0}, "stride_focus is 10 ps, outside stride_min 1 to stride_max 5 ps"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(WindowSettings(), **changes)
