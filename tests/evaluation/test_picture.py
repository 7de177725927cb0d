"""The picture of a run."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_starmd.evaluation import picture
from tests.traces import helix, trajectory


def test_picture(tmp_path):
    frames = helix() + np.random.default_rng(5).normal(0, 0.005, (30, 20, 3))
    start = trajectory(helix()[None])
    model = picture.figures(trajectory(frames), start, interval=10.0)
    assert model["time"][-1] == 300 and model["valid"].mean() > 0.9
    path = picture.draw(tmp_path / "picture.png", model, model, title="helix")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    with pytest.raises(ValueError, match="20 residues .* 19"):
        picture.figures(trajectory(frames), trajectory(helix(19)[None]))
