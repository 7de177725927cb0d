"""The benchmark of the paper's form: what its arms differ in, what they are trained on, and its tables."""

import json
import math

import numpy as np
import pytest

from benchmarks import paper_form
from benchmarks.lib.drawing import HELD_OUT
from openmm_starmd.model.config import preset
from openmm_starmd.model.weights import load_weights
from openmm_starmd.training.settings import differences

SMALL = {
    "c_s": 16,
    "c_z": 8,
    "blocks": 1,
    "conditioner_layers": 1,
    "conditioner_s": 16,
    "conditioner_z": 8,
    "ipa_hidden": 8,
    "attention_layers": 1,
    "attention_heads": 2,
    "attention_hidden": 16,
}


def changed(first: str, second: str) -> set[str]:
    recipes = (paper_form.recipe_of(arm, 40, 300, 100.0) for arm in (first, second))
    return {line.partition(":")[0] for line in differences(*recipes)}


def test_arms_differ_in_what_they_are_named_after():
    noise = {"objective.context_probability", "model.context_tau"}
    assert len(paper_form.ARMS) == 4
    for attention in ("joint", "separable"):
        assert changed(f"with-{attention}", f"without-{attention}") == noise | {"model.name"}
    for kind in ("with", "without"):
        assert changed(f"{kind}-joint", f"{kind}-separable") == {"model.attention", "model.name"}


def test_it_is_the_papers_form_but_for_its_size():
    recipe, paper = paper_form.recipe_of("with-joint", 40, 300, 100.0), preset("paper")
    for name in ("anchored", "schedule", "sampler", "tau_end", "context_tau", "centred_noise", "max_context"):
        assert getattr(recipe.model, name) == getattr(paper, name)
    assert (recipe.windows.stride_min, recipe.windows.stride_max) == (10.0, 100.0)
    assert recipe.windows.stride_focus == recipe.model.stride_default == 100.0
    assert 1e6 < paper_form.parameters(recipe) < 2.5e6


def test_no_arm_trains_on_held_out_proteins():
    proteins = paper_form.training_proteins()
    assert [protein.name for protein in proteins] == list(paper_form.PROTEINS)
    assert not set(paper_form.PROTEINS) & set(HELD_OUT)
    assert all(len(protein.replicas) == 2 for protein in proteins)


def test_stretches_of_a_run():
    frames = np.arange(11.0)[:, None, None] * np.ones((11, 2, 3))
    thinned = paper_form.phases(frames, 5)
    assert [x[:, 0, 0].tolist() for x in thinned] == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    frames[4] = math.nan
    assert [x[0, 0, 0] for x in paper_form.pieces(frames, 3)] == [0, 6]
    assert paper_form.quarters(np.array([1.0, 0, 1, 1, math.nan, math.nan, 0, 1]))[::3] == [0.5, 0.5]
    assert math.isnan(paper_form.quarters(np.array([1.0, 0, 1, 1, math.nan, math.nan, 0, 1]))[2])


def made_up(valid: float) -> dict[str, object]:
    seed = {"valid": valid, "quarters": [1.0, valid, valid, valid], "faults": [0.0, 1.0, 2.0, math.nan]}
    return {"seeds": [{**seed, "rmsd": [0.1, 0.2, 0.3, 0.4]}] * 2, "r": 0.8, "amplitude": 1.2, "amplitude_whole": None}


def test_arms_stand_in_a_table():
    md = {"name": "a", "residues": 36, "picoseconds": [600.0, 200.0], "frames": 6, "valid": 1.0, "rmsd": 0.15}
    md["network_r"] = 0.7
    content = {
        "settings": {"steps": 40, "tokens": 300, "frames": 80, "stride": 100.0, "sampler_steps": 50, "seeds": [0, 1]},
        "parameters": {"here": 1_500_000, "paper": 20_400_000},
        "proteins": [md],
        "step_seconds": {"with-joint": 0.3, "without-joint": 0.3, "with-separable": 0.36},
        "variants": {
            "with-joint": {"proteins": {"a": made_up(0.75)}, "loss": 1.5},
            "without-joint": {"proteins": {"a": made_up(0.5)}, "loss": 1.25},
            "with-separable": {"proteins": {"a": made_up(0.5)}, "loss": None},
        },
    }
    text = paper_form.report(content)
    assert "1.50 M weights beside the paper's 20.4 M" in text and "600 + 200 ps" in text
    row = "| with | joint | 100.0 | 75.0 | 75.0 | 75.0 | 75.0 (75, 75) | 0.0, 1.0, 2.0, - | 0.80 | 1.20 | - | "
    assert row + "1.00, 2.00, 3.00, 4.00 |" in text
    assert "| with | separable | - | 0.360 | 1.20 |" in text
    assert "contextual noise (joint attention, beside `without`): +25.0" in text


def test_it_trains_draws_and_goes_on(monkeypatch, tmp_path, capsys):
    pytest.importorskip("lightning")
    monkeypatch.setattr(paper_form, "SIZES", SMALL)
    monkeypatch.setattr(paper_form, "step_seconds", lambda _, arms: dict.fromkeys(arms, 0.1))
    command = ["paper_form.py", "--steps", "1", "--tokens", "72", "--frames", "3", "--seeds", "0", "1"]
    command += ["--sampler-steps", "2", "--arms", "without-separable", "--store", str(tmp_path / "store")]
    command += ["--json", str(tmp_path / "p.json"), "--markdown", str(tmp_path / "R.md")]
    monkeypatch.setattr("sys.argv", command)
    paper_form.main()
    written = json.loads((tmp_path / "p.json").read_text())
    config = load_weights(next((tmp_path / "store").glob("without-separable*")) / "weights").config
    assert (config.attention, config.context_tau, config.anchored) == ("separable", 0.0, False)
    assert [p["picoseconds"] for p in written["proteins"]] == [[600, 200], [500, 200]]
    assert "results:paper-form" in (tmp_path / "R.md").read_text()
    # again: nothing is trained or drawn a second time
    monkeypatch.setattr("benchmarks.lib.drawing._replicas", lambda _p, _n, _f, seeds, *_: {} if not seeds else 1 / 0)
    paper_form.main()
    assert json.loads((tmp_path / "p.json").read_text()) == written


def test_nothing_is_concluded_where_no_frame_is_valid():
    def arms(share: float) -> dict:
        return {
            arm: {"proteins": {"a": {"seeds": [{"valid": share}]}, "b": {"seeds": [{"valid": 0.0}]}}}
            for arm in ("with-joint", "without-joint")
        }

    assert [line[:12] for line in paper_form.conclusion(arms(0.0))] == ["No frame of "]
    assert "points of valid frames" in paper_form.conclusion(arms(0.5))[0]
