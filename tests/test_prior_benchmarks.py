"""The benchmarks of the elastic prior: what arms differ in, and the tables that are made of what was measured."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks import elastic_cost, left_out, prior_arms
from benchmarks.lib.paths import DATA
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.elastic import ElasticModel
from openmm_starmd.model.elastic_settings import ElasticSettings
from openmm_starmd.model.network import Network
from openmm_starmd.training.settings import differences
from tests.proteins import villin_features


def test_each_arm_adds_one_thing_to_the_arm_before():
    recipes = {arm: prior_arms.recipe_of(arm, "usual", 0, 40, 300) for arm in prior_arms.ARMS}
    changed = [
        {line.partition(":")[0] for line in differences(recipes[first], recipes[second])}
        for first, second in zip(list(recipes)[:-1], list(recipes)[1:], strict=True)
    ]
    augmented = {f"windows.{name}" for name in prior_arms.AUGMENTED}
    assert changed[0] == augmented
    assert changed[1] >= {"model.prior"} and not changed[1] & augmented
    assert changed[2] == {"model.elastic.amplitude"}
    assert changed[3] == {"model.attention_temperature"}
    assert changed[4] == {"optimizer.weight_decay"}
    sizes = [
        sum(p.numel() for p in Network(prior_arms.recipe_of("all", width, 0, 40, 300).model).parameters())
        for width in ("narrow", "usual", "wide")
    ]
    assert sizes[0] < 0.7e6 < 1.2e6 < sizes[1] < 1.5e6 < 2.5e6 < sizes[2]


def test_the_arm_of_the_last_frame_has_no_mean_and_the_others_have():
    model = ElasticModel.of(villin_features(10), ElasticSettings())
    generator = torch.Generator().manual_seed(0)
    reference = villin_features(10).reference
    moved = reference.translations + 0.05 * torch.randn(1, 3, 10, 3, generator=generator)
    history = Rigids(reference.rotations.expand(1, 3, 10, 3, 3), moved)
    arguments = history, torch.tensor([[30.0, 20.0, 10.0]]), torch.full((1, 3), 1e-4), torch.full((1, 3), 1e-3)
    with prior_arms.about_the_last_frame(True):
        found = model.expected(*arguments)
    assert not found.mean.any() and torch.allclose(found.variance[0, 0], model.spread(10.0)[0] + 1e-4, rtol=1e-4)
    with prior_arms.about_the_last_frame(False):
        usual = model.expected(*arguments)
    assert usual.mean.abs().max() > 1e-3
    assert torch.equal(model.expected(*arguments).mean, usual.mean), "the arm outlives its training"


def test_arms_are_told_with_their_seeds():
    rows = [
        {"protein": "mean", "stride": 10.0, "tau": tau, "rmse": value, "last_frame": 1.5}
        for tau, value in ((0.2, 1.0), (0.6, 1.2))
    ]
    better = [{**row, "rmse": row["rmse"] - 0.2} for row in rows]
    content = {
        "settings": {"steps": 40, "tokens": 300, "denoising": {"taus": [0.2, 0.6]}},
        "trained_on": 5,
        "proteins": [{"name": "a", "picoseconds": 30.0, "seen": False, "strides": [10.0]}],
        "strides": [10.0],
        "untrained": {"name": "old", "rows": rows},
        "runs": [
            {"arm": "prior", "width": "usual", "seed": seed, "parameters": 1_300_000, "rows": r}
            for seed, r in enumerate((rows, better))
        ],
    }
    text = prior_arms.report(content)
    assert "last frame 1.500" in text and "2 seeds" in text
    assert "| + prior mean and amplitude | 1.30 M | 0.900 ± 0.100 | 1.100 ± 0.100 |" in text


def test_left_out_proteins_are_told_beside_md():
    row = {"valid": 0.9, "step": 1.1, "rmsd": [1.0, 2.0], "rmsd_md": 1.2, "rmsd_md_highest": 1.9, "md_frames": 3}
    long = row | {"md_frames": 20, "r": 0.8, "r_network": 0.7, "amplitude": 0.95}
    content = {
        "settings": {"weights": ["new"], "seeds": 2, "frames": 10, "stride": 10.0},
        "proteins": {
            "a": {"role": "choose", "seen": [], "weights": {"new": long}},
            "b": {"role": "report", "seen": ["new"], "weights": {"new": row}},
        },
    }
    text = left_out.table(content)
    assert "| a | choose | 20 | new | 90.0 | 1.10 | 0.95 | 0.80 (0.70) | 1.50 (1.20, 1.90) |" in text
    assert "| b | report | 3 | new (trained on) | 90.0 | 1.10 | - | - | 1.50 (1.20, 1.90) |" in text


@pytest.mark.parametrize("size", [30, 70, 200])
def test_networks_of_any_size_are_copies_apart(size):
    alphas, bonded = elastic_cost.network_of(size, DATA / "6mrr_A" / "6mrr_A.pdb")
    assert alphas.shape == (size, 3) and bonded.shape == (size - 1,)
    distances = np.linalg.norm(alphas[:, None] - alphas[None], axis=-1)[np.triu_indices(size, 1)]
    assert distances.min() > 0.3
    assert (~bonded).sum() == (size - 1) // 68


def test_settings_of_the_prior_are_those_that_were_fitted():
    import json

    from benchmarks.derive import elastic_prior
    from benchmarks.lib.paths import RESULTS

    fitted = json.loads((RESULTS / "elastic_prior.json").read_text())["settings"]
    assert all(getattr(elastic_prior.START, name) > 0 for name in elastic_prior.FREE)  # by their logarithms
    shipped = asdict(ElasticSettings())
    for name, value in shipped.items():
        if name not in ("stiffness_min", "widening"):
            assert value == pytest.approx(fitted[name], rel=1e-3), name
