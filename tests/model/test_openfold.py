"""OpenFold's features as conditioner: files, network, training, rollout."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import openmm.app
import pytest
import torch
from typer.testing import CliRunner

from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.network import Network
from openmm_starmd.model.openfold import OpenFoldFeatures, load_openfold_features
from openmm_starmd.model.weights import Weights, load_weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import Rollout, make_rollout
from openmm_starmd.training.objective import objective
from openmm_starmd.training.settings import recipe_objective
from tests.model.test_network import NARROW, awake
from tests.proteins import VILLIN, toy_batch, villin_backbone, villin_features

LENGTH = 10


def write(folder, name="villin", length=LENGTH, single=384, pair=128, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    np.save(folder / f"{name}_single_repr.npy", 30 * rng.normal(size=(length, single)).astype(dtype))
    np.save(folder / f"{name}_pair_repr.npy", 5 * rng.normal(size=(length, length, pair)).astype(dtype))


def configuration(form: str = "paper") -> ModelConfig:
    return replace(preset(form), **NARROW, conditioner="openfold")


def given(seed: int = 0) -> OpenFoldFeatures:
    generator = torch.Generator().manual_seed(seed)
    return OpenFoldFeatures(
        torch.randn(LENGTH, 384, generator=generator), torch.randn(LENGTH, LENGTH, 128, generator=generator)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_files_are_read(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    single, pair = load_openfold_features(tmp_path, "villin", LENGTH)
    assert single.shape == (LENGTH, 384) and pair.shape == (LENGTH, LENGTH, 128)
    assert single.dtype == pair.dtype == torch.float32
    assert single[3, 7] == pytest.approx(float(np.load(tmp_path / "villin_single_repr.npy")[3, 7]))


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"single features of villin are missing: .*villin_single_repr.npy"):
        load_openfold_features(tmp_path, "villin", LENGTH)
    write(tmp_path)
    with pytest.raises(ValueError, match=r"shape \(10, 384\), but the protein has 12 residues, .* \(12, 384\)"):
        load_openfold_features(tmp_path, "villin", 12)
    write(tmp_path, pair=64)
    with pytest.raises(ValueError, match=r"pair features of villin have shape \(10, 10, 64\).*\(10, 10, 128\)"):
        load_openfold_features(tmp_path, "villin", LENGTH)
    write(tmp_path)
    np.save(tmp_path / "villin_pair_repr.npy", np.full((LENGTH, LENGTH, 128), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"villin_pair_repr\.npy holds numbers that are not finite"):
        load_openfold_features(tmp_path, "villin", LENGTH)
    np.save(tmp_path / "villin_pair_repr.npy", np.zeros((LENGTH, LENGTH, 128), int))
    with pytest.raises(ValueError, match="holds int64, expected floating-point numbers"):
        load_openfold_features(tmp_path, "villin", LENGTH)
    for content in (b"", b"no numpy file", b"\x93NUMPY"):
        (tmp_path / "villin_single_repr.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"villin_single_repr\.npy is not a NumPy file"):
            load_openfold_features(tmp_path, "villin", LENGTH)


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_network_conditions_on_the_features(form):
    network = awake(configuration(form))
    features = villin_features(LENGTH).with_openfold(*given())
    condition = network.condition(features)
    assert condition.s.shape == (LENGTH, 32) and condition.z.shape == (LENGTH, LENGTH, 16)
    same = network.condition(features.to("cpu", torch.float32))
    assert torch.equal(same.s, condition.s)
    for changed in (given()._replace(single=given(1).single), given()._replace(pair=given(1).pair)):
        other = network.condition(villin_features(LENGTH).with_openfold(*changed))
        assert not (torch.equal(other.s, condition.s) and torch.equal(other.z, condition.z))
    # residue types count beside OpenFold's features
    mutant = replace(features, residue_types=(features.residue_types + 1) % 20)
    assert not torch.equal(network.condition(mutant).s, condition.s)
    # features move with the device and the dtype, and stay when the reference changes
    assert features.to("cpu", torch.float64).pair.dtype == torch.float64
    assert features.with_reference(features.reference).single is features.single


def test_network_says_what_is_missing():
    network = Network(configuration())
    with pytest.raises(ValueError, match="condition on OpenFold's features, and none were given"):
        network.condition(villin_features(LENGTH))
    with pytest.raises(ValueError, match=r"single features have shape \(10, 384\), but the protein has 12 residues"):
        network.condition(villin_features(12).with_openfold(*given()))
    with pytest.raises(ValueError, match=r"pair features have shape \(9, 9, 128\)"):
        network.condition(villin_features(LENGTH).with_openfold(given().single, given().pair[1:, 1:]))


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_training_reaches_the_conditioner(form):
    network = awake(configuration(form)).train()
    batch = toy_batch(villin_features(LENGTH).with_openfold(*given()), frames=3)
    total, _ = objective(network, batch, recipe_objective(form))
    total.backward()
    for name, parameter in network.conditioner.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_rollout_draws_with_the_features():
    network = awake(configuration("mini"))
    start = villin_backbone()[0][None, :LENGTH]

    def draw(features: OpenFoldFeatures) -> torch.Tensor:
        given_features = villin_features(LENGTH).with_openfold(*features)
        run = Rollout(network, given_features, start, stride=10.0, seeds=[1])
        return run.step().backbone

    first = draw(given())
    assert torch.isfinite(first).all() and torch.equal(first, draw(given()))
    assert not torch.equal(first, draw(given(1)))


@pytest.mark.filterwarnings("ignore:left out")
def test_make_rollout_takes_the_features_of_weights_that_want_them():
    pdb = openmm.app.PDBFile(VILLIN)
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    count = len(protein.residue_types)
    config = configuration("mini")
    weights = Weights(awake(config), config, "throw-away", Path("model.safetensors"))
    features = OpenFoldFeatures(torch.ones(count, 384), torch.ones(count, count, 128))
    make = functools.partial(make_rollout, protein, stride=10.0, seed=1, device="cpu", steps=2)
    assert torch.isfinite(make(weights, openfold_features=features).step().backbone).all()
    with pytest.raises(ValueError, match="none were given"):
        make(weights)
    with pytest.raises(ValueError, match=rf"shape \(10, 384\), but the protein has {count} residues"):
        make(weights, openfold_features=given())
    plain = replace(config, conditioner="reference")
    with pytest.raises(ValueError, match="throw-away conditions on the structure alone"):
        make(replace(weights, network=awake(plain), config=plain), openfold_features=features)


def test_old_configurations_mean_the_reference_structure():
    old = {k: v for k, v in preset("mini").to_dict().items() if k not in ("conditioner", "attention")}
    config = ModelConfig.from_dict(old)
    assert (config.conditioner, config.attention) == ("reference", "joint") and config == preset("mini")
    assert ModelConfig.from_dict(configuration().to_dict()) == configuration()


@pytest.mark.slow
def test_the_command_trains_on_them(tmp_path):
    """Features are read from disk with each batch, and are what the network is conditioned on."""
    pytest.importorskip("lightning", reason="training needs the extra `train`")
    from openmm_starmd.cli import app

    folder = tmp_path / "atlas" / "villin"
    folder.mkdir(parents=True)
    start = mdtraj.load(VILLIN)
    start = start.atom_slice(start.topology.select("protein and not element H and resid 1 to 10"))
    start.save_pdb(folder / "villin.pdb")
    for replica in (1, 2):
        walk = 0.01 * np.random.default_rng(replica).standard_normal((30, start.n_atoms, 3))
        mdtraj.Trajectory(start.xyz + walk, start.topology, time=np.arange(1.0, 31)).save_xtc(
            folder / f"villin_prod_R{replica}_fit.xtc"
        )
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"model": NARROW | {"conditioner": "openfold"}, "validation": {"frames": 2}}))
    words = ["train", str(folder.parent), "--config", str(config), "--accelerator", "cpu", "--max-steps", "1"]
    words += ["--exclude", "villin:2", "--validate", "villin:2"]
    runner, weights = CliRunner(), []
    for seed in (0, 1):
        features = tmp_path / f"openfold{seed}"
        features.mkdir()
        write(features, seed=seed)
        run = tmp_path / f"run{seed}"
        done = runner.invoke(app, [*words, "--openfold", str(features), "-o", str(run)])
        assert done.exit_code == 0, done.output
        weights.append((run / "weights" / "model.safetensors").read_bytes())
        assert load_weights(run / "weights").config.conditioner == "openfold"
    assert weights[0] != weights[1]
    write(features, length=9)
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"model": NARROW}))
    for wrong, message in (
        ([], "give their folder with --openfold"),
        (["--openfold", str(features)], "shape (9, 384), but the protein has 10 residues"),
        (["--openfold", str(features), "--config", str(plain)], "--openfold is for a model that conditions on it"),
    ):
        refused = runner.invoke(app, [*words, *wrong, "-o", str(tmp_path / "refused")])
        assert refused.exit_code == 2 and message in " ".join(refused.output.split()), refused.output
    assert not (tmp_path / "refused").exists()
