"""The optimiser: what decays, its form across versions and devices, what a data loader pins."""

import pytest
import torch

from openmm_starmd.model.network import Network
from openmm_starmd.training.optimizer import make_optimizer, matrices, on_this_device
from openmm_starmd.training.settings import OptimizerSettings
from tests.model.test_network import narrow


def test_without_decay_it_is_the_adam_of_all_versions():
    network = Network(narrow("mini"))
    mine = make_optimizer(network, OptimizerSettings())
    theirs = torch.optim.Adam(network.parameters(), lr=1e-3)
    assert type(mine) is torch.optim.Adam
    assert mine.state_dict() == theirs.state_dict()


def test_matrices_decay_and_nothing_else_does():
    network = Network(narrow("mini"))
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(network, settings)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        # a step without gradient: decoupled decay takes learning rate x decay off, Adam nothing
        share = 0.95 if parameter.ndim >= 2 else 1.0
        assert torch.allclose(parameter, share * before[name]), name
    assert {"kind.weight", "head.inner.weight"} <= matrices(network)
    assert not matrices(network) & {"head.inner.bias", "pair_norm.weight", "blocks.0.ipa.point_weight"}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_decay_goes_by_names_where_fsdp_has_taken_the_shapes():
    """FSDP hands out rows of numbers, under names of its own."""
    network = Network(narrow("mini"))
    decayed = matrices(network)

    class Sharded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = [
                (f"_fsdp_wrapped_module.{name}", torch.nn.Parameter(p.detach().flatten()))
                for name, p in network.named_parameters()
            ]

        def named_parameters(self, *_, **__):
            return iter(self.rows)

        def parameters(self, *_, **__):
            return iter(parameter for _, parameter in self.rows)

    optimizer = make_optimizer(Sharded(), OptimizerSettings(weight_decay=0.1), decayed)
    assert len(optimizer.param_groups[0]["params"]) == len(decayed)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_state_of_a_gpu_goes_on_on_a_cpu(decay):
    """The fused optimiser marks its groups; here they are marked by hand."""
    network = torch.nn.Linear(3, 2)
    settings = OptimizerSettings(weight_decay=decay)
    optimizer = make_optimizer(network, settings)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group["fused"] = True
    on_this_device([saved], False)
    other = make_optimizer(network, settings)
    other.load_state_dict(saved)
    assert all(group["fused"] is None for group in other.param_groups)
    other.step()
    on_this_device([saved], True)
    assert all(group["fused"] is True for group in saved["param_groups"])


cuda = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class TestOnCuda:
    pytestmark = cuda

    def test_fused_step_is_that_of_the_cpu(self):
        moved = []
        for device in ("cpu", "cuda"):
            torch.manual_seed(0)
            network = torch.nn.Linear(30, 20).to(device)
            optimizer = make_optimizer(network, OptimizerSettings(weight_decay=0.1))
            assert optimizer.param_groups[0]["fused"] is (True if device == "cuda" else None)
            for _ in range(3):
                optimizer.zero_grad()
                network(torch.ones(4, 30, device=device)).square().sum().backward()
                optimizer.step()
            moved.append(network.weight.detach().cpu())
        assert (moved[0] - moved[1]).abs().max() < 1e-5
