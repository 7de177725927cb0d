"""Training that begins from weights: what they lack is gained, what does not fit is named."""

import json
from dataclasses import replace

import mdtraj
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from openmm_starmd.model.config import preset
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights, save_weights
from tests.model.test_network import NARROW
from tests.proteins import VILLIN, toy_batch, villin_features

pytest.importorskip("lightning", reason="training needs the extra `train`")

from openmm_starmd.cli import app
from openmm_starmd.training.objective import noise_batch, training_pass
from openmm_starmd.training.recipe import SIZES, initialise_from
from openmm_starmd.training.settings import (
    ObjectiveSettings,
    read_recipe,
)

OLD = replace(preset("mini"), **NARROW, prior="isotropic", reference_torsions=False, steps=7, name="old")


def trained() -> Network:
    """Weights without the torsions of the reference, no layer of them zero."""
    torch.manual_seed(1)
    network = Network(OLD)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def test_weights_gain_the_torsions_and_go_on_from_what_they_knew():
    old, new = trained(), Network(replace(OLD, reference_torsions=True))
    initialise_from(new, old)
    features = villin_features(10)
    batch = toy_batch(replace(features, torsions=torch.randn(10, 5, 2)))
    noised = noise_batch(batch, old, ObjectiveSettings())
    same = [training_pass(network, batch, noised).rigids.translations for network in (old, new)]
    assert torch.equal(*same) and not torch.equal(same[0], noised.frames.rigids.translations[:, 4:])
    training_pass(new, batch, noised).rigids.translations.square().sum().backward()
    assert new.conditioner.torsions.weight.grad.abs().max() > 0, "and the new layer learns"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c_z": 32}, "model.c_z is 32 and theirs 16"),
        ({"blocks": 3, "ipa_hidden": 16}, "model.blocks is 3 and theirs 2; model.ipa_hidden is 16 and theirs 8"),
        ({"anchored": False}, "model.anchored is False and theirs True"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        initialise_from(Network(replace(OLD, **changes)), trained())
    if "c_z" in changes:
        with pytest.raises(ValueError, match="reference_torsions is False and theirs True"):
            initialise_from(Network(OLD), Network(replace(OLD, reference_torsions=True)))


def test_sizes_are_all_that_shapes_depend_on():
    """A setting that changes a shape and is not in SIZES would end in torch's own words."""
    shapes = {name: value.shape for name, value in Network(OLD).state_dict().items()}
    doubled = {
        "mlp_ratio": 4,
        "attention_layers": 2,
        "attention_heads": 4,
        "conditioner": "openfold",
        "anchored": False,
    }
    for name, value in vars(OLD).items():
        if name in ("schedule", "name", "max_length", "sampler", "elastic", "correction"):
            continue
        other = doubled.get(name, not value if isinstance(value, bool) else value)
        if name not in doubled and isinstance(value, int) and not isinstance(value, bool):
            other = 2 * value
        if name in ("attention", "prior"):
            other = {"attention": "separable", "prior": "elastic"}[name]
        changed = {n: v.shape for n, v in Network(replace(OLD, **{name: other})).state_dict().items()}
        assert changed == shapes or name in SIZES, name


@pytest.mark.slow
def test_settings_of_the_model_come_from_the_weights_but_for_those_of_the_file(tmp_path):
    folder = tmp_path / "atlas" / "frag"
    folder.mkdir(parents=True)
    start = mdtraj.load(VILLIN)
    start = start.atom_slice(start.topology.select("protein and not element H and resid 1 to 8"))
    start.save_pdb(folder / "frag.pdb")
    walk = 0.01 * np.random.default_rng(0).standard_normal((30, start.n_atoms, 3))
    mdtraj.Trajectory(start.xyz + walk, start.topology, time=np.arange(1.0, 31)).save_xtc(
        folder / "frag_prod_R1_fit.xtc"
    )
    save_weights(tmp_path / "old", trained(), replace(OLD, stride_max=50.0, max_length=60))
    known = {"proteins": [{"name": "a", "sequence": "AAA", "picoseconds": [5.0]}]}
    known["held_out"] = [{"name": "b", "sequence": "GGG"}]
    (tmp_path / "old" / "training_data.json").write_text(json.dumps(known))
    words = ["train", str(folder.parent), "--from", str(tmp_path / "old"), "--accelerator", "cpu", "--max-steps", "1"]
    runner = CliRunner()

    def run(output: str, settings: dict, *more: str):
        (tmp_path / "settings.json").write_text(json.dumps(settings))
        return runner.invoke(app, [*words, "--config", str(tmp_path / "settings.json"), "-o", output, *more])

    gained = run(str(tmp_path / "new"), {"model": {"reference_torsions": True}})
    assert gained.exit_code == 0, gained.output
    config = load_weights(tmp_path / "new" / "weights").config
    assert config.reference_torsions and (config.c_s, config.steps, config.name) == (32, 7, "new")
    assert read_recipe(tmp_path / "new" / "recipe.json").start_from == str(tmp_path / "old")
    assert (config.stride_max, config.max_length) == (50.0, 60), "what the weights knew is not lost"
    listing = json.loads((tmp_path / "new" / "weights" / "training_data.json").read_text())
    assert [p["name"] for p in listing["proteins"]] == ["frag"]
    assert listing["earlier"] == known["proteins"] and listing["held_out"] == known["held_out"]
    plain = run(str(tmp_path / "plain"), {"seed": 1})
    assert plain.exit_code == 0 and not load_weights(tmp_path / "plain" / "weights").config.reference_torsions
    for settings, more, message in (
        ({"model": {"c_s": 64}}, (), "model.c_s is 64 and theirs 32"),
        ({}, ("--preset", "paper"), "is of the form mini: leave --preset out"),
        (
            {"objective": {"weights": [["fapee", 1.0]]}},
            (),
            "settings.json: objective: weights has unknown losses fapee",
        ),
        ({"windows": {"stride_min": 11.0, "stride_focus": 12.0}}, (), "stride_default is 10 ps, and stride_min 11"),
    ):
        refused = run(str(tmp_path / "refused"), settings, *more)
        assert refused.exit_code == 2 and message in " ".join(refused.output.split()), refused.output
    assert not (tmp_path / "refused").exists()
