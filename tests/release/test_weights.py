"""Weights: inspected, verified, converted, and loaded from the Hugging Face hub."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from openmm_starmd.cli import app
from openmm_starmd.model import hub
from openmm_starmd.model.config import preset
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import BUNDLED, DEFAULT_WEIGHTS, find_weights, load_weights, save_weights
from openmm_starmd.release.checks import inspect, verify
from openmm_starmd.release.conversion import convert

SMALL = {"c_s": 16, "c_z": 8, "blocks": 1, "conditioner_layers": 1, "conditioner_s": 16, "conditioner_z": 8}
SMALL |= {"attention_hidden": 16, "attention_heads": 2, "ipa_heads": 1, "steps": 2, "max_length": 36}
NAME = "someone/starmd-test"


@pytest.fixture
def small(tmp_path) -> Path:
    """A small network that nobody trained, with a list of training data."""
    torch.manual_seed(0)
    config = replace(preset("mini"), **SMALL, name="small")
    save_weights(tmp_path / "small", Network(config), config)
    proteins = [{"name": "1abc_A", "sequence": "ACDEFGHIKLMNPQRSTVWY", "picoseconds": [100.0, 50.0]}]
    (tmp_path / "small" / "training_data.json").write_text(json.dumps({"proteins": proteins}))
    return tmp_path / "small"


def command(*arguments) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    return outcome.exit_code, outcome.output + (outcome.stderr if outcome.stderr_bytes else "")


def failed(folder: Path, **options) -> list[str]:
    return [check.name for check in verify(folder, frames=1, **options) if check.ok is False]


def test_inspect_tells_what_the_files_hold(small):
    facts = inspect(small)
    network = load_weights(small).network
    assert facts.parameters == sum(p.numel() for p in network.parameters())
    assert (facts.proteins, facts.trajectories, facts.nanoseconds) == (1, 2, pytest.approx(0.15))
    assert len(facts.sha256) == 64
    code, text = command("inspect", small)
    assert code == 0
    for part in ("small", f"{facts.parameters:,}", facts.sha256, "1 to 20 ps", "0.15 ns", "anchored", "300 K", "none"):
        assert part in text
    before = facts.sha256
    state = load_file(small / "model.safetensors")
    state["pose.bias"] += 1
    save_file(state, small / "model.safetensors")
    assert inspect(small).sha256 != before


def test_the_command_of_bundled_weights():
    code, text = command("inspect", DEFAULT_WEIGHTS)
    assert code == 0 and DEFAULT_WEIGHTS in text and "MODEL_CARD.md" in text


@pytest.mark.slow
def test_verify_finds_what_is_wrong(small, tmp_path):
    checks = {check.name: check for check in verify(small, frames=1)}
    assert checks["configuration"].ok and checks["numbers"].ok and checks["forward pass"].ok
    assert checks["files"].ok is None and "MODEL_CARD" in checks["files"].detail

    (small / "leftover.ckpt").write_bytes(b"")
    assert "files" in failed(small)
    (small / "leftover.ckpt").unlink()

    # nearest known sequences
    assert "held-out proteins" not in failed(small, held_out={"far": "GGGGGGGGGGGGGGGG"})
    pytest.importorskip("Bio.Align")
    assert "held-out proteins" in failed(small, held_out={"near": "ACDEFGHIKLMNPQRSTVWW"})
    listing = json.loads((small / "training_data.json").read_text())
    listing["held_out"] = [{"name": "listed", "sequence": "ACDEFGHIKL"}]
    (small / "training_data.json").write_text(json.dumps(listing))
    assert "held-out proteins" in failed(small)

    state = load_file(small / "model.safetensors")
    state["blocks.0.update.weight"][0, 0] = float("nan")
    save_file(state, small / "model.safetensors")
    assert failed(small) == ["numbers"]
    assert command("verify", small)[0] == 1
    del state["blocks.0.update.weight"]
    save_file(state, small / "model.safetensors")
    assert failed(small) == ["configuration"]
    assert command("verify", tmp_path / "nothing")[0] == 2


def test_verify_draws_frames_and_judges_them(small):
    # updates that throw every residue about leave finite frames of no protein
    state = load_file(small / "model.safetensors")
    torch.manual_seed(1)
    state["blocks.0.update.weight"] = 3 * torch.randn_like(state["blocks.0.update.weight"])
    save_file(state, small / "model.safetensors")
    assert failed(small) == ["rollout"]
    # and numbers that are finite but overflow
    state["blocks.0.update.weight"].fill_(3e38)
    save_file(state, small / "model.safetensors")
    assert failed(small) == ["forward pass"]


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_convert_changes_storage_only(small, tmp_path, dtype, error):
    folder = convert(small, tmp_path / "new", dtype=dtype, name="renamed")
    old, new = load_weights(small), load_weights(folder)
    assert new.config == replace(old.config, name="renamed")
    for a, b in zip(old.network.state_dict().values(), new.network.state_dict().values(), strict=True):
        assert b.dtype == torch.float32
        assert ((a - b).abs() <= error * a.abs() + 1e-7).all()
    stored = {value.dtype for value in load_file(folder / "model.safetensors").values()}
    assert stored == {getattr(torch, dtype)}
    card = (folder / "MODEL_CARD.md").read_text()
    assert "# renamed" in card and "1abc_A" in card and "not measured" not in card and "Nothing yet" in card
    assert json.loads((folder / "training_data.json").read_text())["proteins"][0]["name"] == "1abc_A"
    with pytest.raises(ValueError, match="not empty"):
        convert(small, folder)


def test_convert_refuses_numbers_too_large_for_the_format(small, tmp_path):
    state = load_file(small / "model.safetensors")
    state["pose.bias"][0] = 1e6
    save_file(state, small / "model.safetensors")
    with pytest.raises(ValueError, match=r"pose\.bias .* float16: use bfloat16"):
        convert(small, tmp_path / "new", dtype="float16")
    assert not (tmp_path / "new").exists()
    assert command("convert", small, "-o", tmp_path / "new", "--dtype", "bfloat16")[0] == 0


def test_convert_keeps_the_card_of_weights_that_keep_their_name(tmp_path):
    folder = convert(DEFAULT_WEIGHTS, tmp_path / "half", dtype="float16")
    assert (folder / "MODEL_CARD.md").read_text() == (BUNDLED / DEFAULT_WEIGHTS / "MODEL_CARD.md").read_text()
    assert inspect(folder).stored == ("F16",)
    assert failed(folder) == []


def test_convert_takes_the_averaged_network_of_a_run(small, tmp_path):
    # a run as Lightning leaves it: the module's state dict, beside it the recipe
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(5)
    config = load_weights(small).config
    network, averaged = Network(config), Network(config)
    state = {f"network.{k}": v for k, v in network.state_dict().items()}
    state |= {f"averaged.{k}": v for k, v in averaged.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 3}, run / "last.ckpt")
    with pytest.raises(ValueError, match="network's sizes"):
        convert(run, tmp_path / "none")
    (run / "recipe.json").write_text(json.dumps({"model": config.to_dict()}))
    folder = convert(run, tmp_path / "from-checkpoint")
    for (name, a), b in zip(averaged.named_parameters(), load_weights(folder).network.parameters(), strict=True):
        assert torch.equal(a, b), name
    # weights that the run exported come first, the checkpoint only when it is asked for
    shutil.copytree(small, run / "weights")
    pose = [
        load_weights(convert(run / part, tmp_path / f"x{i}")).network.pose.bias
        for i, part in enumerate(["", "last.ckpt"])
    ]
    assert torch.equal(pose[0], load_weights(small).network.pose.bias)
    assert torch.equal(pose[1], averaged.pose.bias)


def test_convert_takes_the_checkpoint_of_a_real_run(tmp_path):
    pytest.importorskip("lightning")
    from openmm_starmd.training.recipe import load_proteins, recipe_for, train

    data = tmp_path / "data"
    data.mkdir()
    name = "1t2y_A"
    (data / name).symlink_to(Path(__file__).parents[2] / "benchmarks" / "data" / "training" / name)
    recipe = recipe_for("mini")
    windows = replace(recipe.windows, tokens=60, length=4)
    recipe = replace(recipe, model=replace(recipe.model, **SMALL, name="run"), windows=windows, steps=3, save_every=1)
    trained = train(load_proteins([data]), tmp_path / "run", recipe, accelerator="cpu", progress=False)
    expected = load_weights(trained)
    for source in (tmp_path / "run", tmp_path / "run" / "last.ckpt"):
        folder = convert(source, tmp_path / f"from-{source.name}")
        found = load_weights(folder)
        assert found.config == expected.config
        for (key, a), b in zip(expected.network.named_parameters(), found.network.parameters(), strict=True):
            assert torch.equal(a, b), key
        assert name in (folder / "MODEL_CARD.md").read_text()


class _Runs:
    """Unpickled, it calls print."""

    def __reduce__(self):
        return print, ("ran",)


def test_a_checkpoint_never_runs_code(small, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(small, run / "weights")
    torch.save({"state_dict": {}, "other": _Runs()}, run / "last.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        convert(run / "last.ckpt", tmp_path / "out")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("someone/weights", True),
        ("hf:someone/weights", True),
        ("someone/weights@v1.0", True),
        ("/someone/weights", False),
        ("./someone/weights", False),
        ("a/b/c", False),
        ("weights", False),
        (Path("someone/weights"), False),
    ],
)
def test_what_is_a_name_of_the_hub(name, expected):
    assert hub.is_hub_name(name) is expected


def test_a_local_path_comes_before_the_hub(small, monkeypatch):
    monkeypatch.chdir(small.parent.parent)
    relative = f"{small.parent.name}/small"
    assert not hub.is_hub_name(relative)
    assert find_weights(relative).resolve() == small / "model.safetensors"


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"openmm_starmd\[hub\]"):
        load_weights(NAME)
    code, text = command("inspect", NAME)
    assert code == 2 and "openmm_starmd[hub]" in text


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """huggingface_hub with an empty cache and no network."""
    module = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, of the extra `hub`")
    import huggingface_hub.constants
    import huggingface_hub.errors  # noqa: F401

    folder = tmp_path / "cache"
    monkeypatch.setattr(module.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(module.constants, "HF_HUB_OFFLINE", True)
    return folder


def fill(cache: Path, weights: Path, *files: str) -> Path:
    """What the hub's client leaves in its cache after a download."""
    repository = cache / f"models--{NAME.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in files or ("model.safetensors", "config.json"):
        shutil.copy(weights / file, snapshot / file)
    return snapshot


def test_offline_says_where_it_looked_and_what_to_do(cache):
    with pytest.raises(ValueError, match="HF_HOME") as caught:
        load_weights(f"hf:{NAME}")
    text = str(caught.value)
    assert "\n" not in text
    for part in (NAME, str(cache), "https://huggingface.co", "HF_HUB_OFFLINE is set", "config.json", "HF_HOME"):
        assert part in text
    code, text = command("inspect", NAME)
    assert code == 2 and str(cache) in text


def test_no_such_network_is_said_as_such(cache, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache") from OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"could not be reached \(no route to host\)"):
        load_weights(NAME)


def test_a_copy_in_the_cache_is_used_offline(cache, small):
    snapshot = fill(cache, small)
    weights = load_weights(NAME)
    assert weights.path == snapshot / "model.safetensors" and weights.name == "small"
    assert find_weights(f"hf:{NAME}") == weights.path
    with pytest.raises(ValueError, match="revision 'v9'"):
        load_weights(f"{NAME}@v9")


def test_a_copy_without_weights_is_refused(cache, small):
    fill(cache, small, "config.json")
    with pytest.raises(ValueError, match=r"no model\.safetensors .*does not hold weights"):
        load_weights(NAME)


def test_nothing_but_tensors_and_json_is_asked_for(cache, small, monkeypatch):
    import huggingface_hub

    asked = {}

    def download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(small)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_weights(f"{NAME}@abc").path == small / "model.safetensors"
    assert asked["name"] == NAME and asked["revision"] == "abc"
    assert {pattern.rpartition(".")[2] for pattern in asked["patterns"]} == {"safetensors", "json"}
    assert not any("*" in pattern for pattern in asked["patterns"])


@pytest.mark.slow
def test_the_package_does_not_import_the_hubs_client():
    code = "import sys, openmm_starmd.model.weights; sys.exit('huggingface_hub' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
