"""Several processes learn what one does: batches of a step, gradients, averaged shards."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from openmm_starmd.data.trajectories import LoadedReplica, ProteinData
from openmm_starmd.data.windows import WindowDataset, WindowSettings
from openmm_starmd.geometry.rigid import backbone_from_rigids
from openmm_starmd.model.features import torsion_features
from openmm_starmd.model.network import Network
from tests.model.test_network import narrow
from tests.proteins import villin_features, wobbling_frames

pytest.importorskip("lightning", reason="training needs the extra `train`")

from openmm_starmd.training.average import Average, full_state
from openmm_starmd.training.loader import RankBatches
from openmm_starmd.training.module import StarMDModule
from openmm_starmd.training.objective import objective, objective_sums, weighted
from openmm_starmd.training.parallelism import Parallelism
from openmm_starmd.training.recipe import released_config, train
from openmm_starmd.training.settings import OptimizerSettings, Recipe


def wobbler(name: str, length: int, frames: int) -> ProteinData:
    """The first residues of villin, wobbling."""
    features = villin_features(length)
    rigids = wobbling_frames(features, frames, seed=length)
    backbone = backbone_from_rigids(rigids)[0].numpy().astype(np.float32)
    torsions = np.random.default_rng(length).uniform(-3, 3, (frames, length, 5)).astype(np.float32)
    exists = np.ones((length, 5), dtype=bool)
    if name != "small":
        # so that the weights which see these get a gradient in some processes only
        features = replace(features, torsions=torsion_features(torch.from_numpy(torsions[0]), torch.from_numpy(exists)))
    return ProteinData(name, "A" * length, features, (LoadedReplica(backbone, torsions, 1.0),), exists, ~exists)


def proteins() -> list[ProteinData]:
    return [wobbler("small", 9, 30), wobbler("middle", 14, 60), wobbler("large", 21, 15)]


def recipe(**changes) -> Recipe:
    windows = WindowSettings(tokens=130, bucket_ratio=100.0, seed=7)
    return replace(Recipe(model=narrow("mini"), windows=windows, optimizer=OptimizerSettings(warmup=2)), **changes)


def gradients(module: torch.nn.Module) -> torch.Tensor:
    """Of all parameters in one row; zero where there is none."""
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters()]
    return torch.cat([gradient.flatten() for gradient in found])


def test_any_number_of_processes_shares_out_the_same_batches():
    dataset = WindowDataset(proteins(), recipe().windows, 10)

    def keys(world: int, accumulate: int, steps: int) -> list[set[tuple[int, ...]]]:
        found: list[set[tuple[int, ...]]] = [set() for _ in range(steps)]
        for rank in range(world):
            batches = iter(RankBatches(dataset, 3, accumulate, rank, world))
            for step in range(steps):
                mine = [next(batches) for _ in range(accumulate)]
                assert [one.first for one in mine] == [True] + [False] * (accumulate - 1)
                counted = sum(int(one.batch.target[:, 1:].sum()) for one in mine)
                assert all(one.counted == counted for one in mine)
                found[step] |= {one.batch.key for one in mine}
        return found

    expected = [{(7, 3 + step, position) for position in range(4)} for step in range(3)]
    assert keys(1, 4, 3) == keys(2, 2, 3) == keys(4, 1, 3) == expected


def test_batches_keep_to_the_tokens_and_to_lengths_alike():
    windows = replace(recipe().windows, bucket_ratio=1.2)
    dataset = WindowDataset(proteins(), windows, 60)
    seen = set()
    for step in range(60):
        plans = [dataset.plan(step, position) for position in range(3)]
        lengths = {plan.protein.features.length for plan in plans}
        assert len(lengths) == 1, "lengths of one step lie within a factor of 1.2, and these proteins do not"
        seen |= lengths
        for plan in plans:
            assert plan.tokens <= windows.tokens
            # another window would not have fitted
            assert plan.tokens + plan.tokens // len(plan.target) > windows.tokens
            batch = dataset.read(plan)
            assert batch.target.shape == batch.rigids.translations.shape[:2] == plan.target.shape
    assert seen == {9, 14, 21}
    # too long even for one whole window: fewer frames, but never fewer than two
    for tokens, frames in ((70, 3), (20, 2)):
        plan = WindowDataset(
            [wobbler("large", 21, 60)], replace(windows, tokens=tokens, stride_max=2.0, stride_focus=2.0), 1
        ).plan(0)
        assert plan.target.shape == (1, frames)


def test_unequal_batches_weigh_by_their_frames():
    """Sums over a common count are not the mean of the batches' means: the test below can fail."""
    settings = recipe()
    dataset = WindowDataset(proteins(), settings.windows, 10)
    torch.manual_seed(0)
    network = Network(released_config(settings, proteins()))
    batches = [dataset.read(dataset.plan(0, position)) for position in range(2)]
    assert len({batch.features.length for batch in batches}) == 2
    parts = [objective_sums(network, batch, settings.objective) for batch in batches]
    counts = [int(count) for _, count in parts]
    assert counts[0] != counts[1]
    whole = sum(weighted(sums, settings.objective) for sums, _ in parts) / sum(counts)
    means = sum(objective(network, batch, settings.objective)[0] for batch in batches) / 2
    assert abs(whole - means) > 1e-3 * means


def double_batch(settings: Recipe) -> torch.Tensor:
    """Gradient of the first step by hand: all batches at once, in one process."""
    torch.manual_seed(settings.seed)
    network = Network(released_config(settings, proteins()))
    dataset = WindowDataset(proteins(), settings.windows, settings.steps)
    parts = [objective_sums(network, dataset.read(dataset.plan(0, p)), settings.objective) for p in range(2)]
    total = sum(weighted(sums, settings.objective) for sums, _ in parts) / sum(count for _, count in parts)
    total.backward()
    return gradients(network)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Gradients of every step, before they are clipped."""
    seen: list[torch.Tensor] = []
    clip = StarMDModule.configure_gradient_clipping

    def watched(self, *args, **kwargs):
        seen.append(gradients(self.network))
        return clip(self, *args, **kwargs)

    monkeypatch.setattr(StarMDModule, "configure_gradient_clipping", watched)
    return seen


def test_accumulated_batches_give_the_gradient_of_the_double_batch(tmp_path, monkeypatch):
    settings = recipe(steps=2, accumulate=2)
    seen = spy(monkeypatch)
    train(proteins(), tmp_path / "run", settings, accelerator="cpu", progress=False)
    expected = double_batch(settings)
    assert len(seen) == 2 and (seen[0] - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_the_double_batch(tmp_path):
    """DDP over gloo, started as Lightning starts it, against one process with both batches."""
    settings = recipe(steps=2, accumulate=1)
    command = [sys.executable, "-m", "tests.training.test_distributed", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = double_batch(settings)
    ranks = [torch.load(tmp_path / f"gradients-{rank}.pt") for rank in range(2)]
    assert len(ranks[0]) == 2
    for seen in ranks:
        assert (seen[0] - expected).norm() < 1e-5 * expected.norm()
    assert settings.model.reference_torsions, "or no weight would be without a gradient in one process alone"
    # the ranks stay together, and the log counts what both saw
    assert torch.equal(ranks[0][1], ranks[1][1])
    alone = train(proteins(), tmp_path / "alone", replace(settings, accumulate=2), accelerator="cpu", progress=False)
    logs = [(folder / "log.csv").read_text().splitlines() for folder in (tmp_path / "run", alone.parent)]
    first, second = (np.array([float(x) for x in log[-1].split(",")]) for log in logs)
    assert logs[0][0] == logs[1][0] and np.allclose(first, second, rtol=1e-5)
    # going on with another number of batches per step would train something else
    with pytest.raises(ValueError, match="2 batches per step"):
        train(proteins(), tmp_path / "run", settings, resume=True, accelerator="cpu", progress=False)

    # the average of FSDP's shards is that of the whole, and a whole one can be loaded
    layers = small_layers()
    average = Average(layers)
    shift(layers)
    average.update(0.75)
    shards = torch.load(tmp_path / "shards.pt")
    assert shards["sharded"], "each process held a part only"
    for name, value in average.full().items():
        assert torch.allclose(shards["average"][name], value) and torch.equal(shards["loaded"][name], value + 1)
        assert torch.equal(shards["weights"][name], layers.state_dict()[name]), "the module's own weights are untouched"


def test_parallelism_refuses_what_cannot_be():
    for changes, message in [
        ({"accelerator": "tpu"}, "accelerator"),
        ({"strategy": "deepspeed"}, "choose one of auto, ddp, fsdp"),
        ({"strategy": "fsdp", "accelerator": "cpu"}, "needs GPUs"),
        ({"devices": 0}, "devices"),
        ({"devices": "all"}, "devices"),
        ({"nodes": 0}, "nodes"),
        ({"logger": "wandb"}, "logger"),
    ]:
        with pytest.raises(ValueError, match=message):
            Parallelism(**changes)
    assert Parallelism(devices="auto", accelerator="cpu").processes_per_node == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gpu_strategies_train_and_resume(tmp_path, strategy):
    settings = recipe(steps=4, save_every=2, log_every=1, checkpointing=True)
    parallelism = Parallelism("gpu", devices=1, strategy=strategy)
    train(proteins(), tmp_path / "a", settings, parallelism=parallelism, progress=False)
    train(proteins(), tmp_path / "b", replace(settings, steps=2), parallelism=parallelism, progress=False)
    train(proteins(), tmp_path / "b", settings, parallelism=parallelism, progress=False, resume=True)
    steps = [[line.split(",")[0] for line in (tmp_path / x / "log.csv").read_text().splitlines()] for x in "ab"]
    assert steps[0] == steps[1] == ["step", "1", "2", "3", "4"]
    weights = [(tmp_path / x / "weights" / "config.json").read_text() for x in "ab"]
    assert json.loads(weights[0]) == json.loads(weights[1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_begun_on_a_gpu_goes_on_on_a_cpu_and_back(tmp_path):
    for steps, accelerator in ((2, "gpu"), (3, "cpu"), (4, "gpu")):
        settings = recipe(steps=steps, save_every=1, log_every=1)
        train(proteins(), tmp_path / "run", settings, accelerator=accelerator, progress=False, resume=steps > 2)
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "4"]


def small_layers() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))


def shift(layers: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(1.0)


def average_of_shards(folder: Path) -> None:
    """The average under FSDP, on the CPU, in the process group that training has left."""
    inner = small_layers()
    whole = sum(parameter.numel() for parameter in inner.parameters())
    layers = FullyShardedDataParallel(
        inner,
        auto_wrap_policy=ModuleWrapPolicy({torch.nn.Linear}),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    average = Average(layers)
    shift(layers)
    average.update(0.75)
    mean = average.full()
    found = {"average": mean, "weights": full_state(layers), "sharded": sum(v.numel() for v in average.values) < whole}
    given = [{name: value + 1 for name, value in mean.items()}]
    torch.distributed.broadcast_object_list(given)
    average.load(given[0])
    found["loaded"] = average.full()
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "shards.pt")


def main(folder: Path) -> None:
    """One of two processes of a run; Lightning starts the other with the same command."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        seen = spy(patch)
        parallelism = Parallelism("cpu", devices=2)
        train(proteins(), folder / "run", recipe(steps=2, accumulate=1), parallelism=parallelism, progress=False)
    torch.save(seen, folder / f"gradients-{torch.distributed.get_rank()}.pt")
    average_of_shards(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
