"""Attention alone: masks, FlexAttention beside SDPA, the cache, joint beside separable."""

from dataclasses import replace

import pytest
import torch

from openmm_starmd.model import attention as kernels
from openmm_starmd.model.attention import KVCache, RotaryAngles, SpaceTimeAttention, attend, flex_attend
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.masks import block_causal_mask
from openmm_starmd.model.network import Network

FRAMES, RESIDUES = 4, 9
COPIES = 2 * FRAMES - 1


def qkv(residues: int, copies: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 2, copies * residues, 32)
    return [x.to(device, dtype).requires_grad_() for x in torch.randn(shape, generator=generator)]


def layer(attention: str) -> SpaceTimeAttention:
    """One layer with its gates open."""
    torch.manual_seed(0)
    built = SpaceTimeAttention(config(attention), 0)
    with torch.no_grad():
        built.modulation.bias += 0.5 * torch.randn(built.modulation.bias.shape)
    return built


def config(attention: str) -> ModelConfig:
    return replace(preset("mini"), attention=attention, c_s=32, attention_hidden=32, attention_heads=4)


def tokens(frames: int, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor, RotaryAngles]:
    generator = torch.Generator().manual_seed(1)
    s = torch.randn(samples, frames, RESIDUES, 32, generator=generator)
    condition = torch.randn(samples, frames, 32, generator=generator)
    return s, condition, rotary(torch.arange(frames))


def rotary(numbers: torch.Tensor) -> RotaryAngles:
    residues = torch.arange(RESIDUES).repeat(len(numbers))
    return RotaryAngles(residues, numbers.repeat_interleave(RESIDUES), 8, torch.float32)


def test_block_causal_mask_of_three_frames():
    """Written out: clean 0, 1, 2, then noisy 1, 2."""
    mask = block_causal_mask(3, 2)
    expected = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 1, 0, 0, 1]])
    assert torch.equal(mask.frames, expected.bool())
    assert torch.equal(mask.tokens, expected.bool().repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert block_causal_mask(3, 2) is mask, "kept, since FlexAttention's form of it is dear"


def test_mask_made_in_inference_serves_training():
    block_causal_mask.cache_clear()
    with torch.inference_mode():
        mask = block_causal_mask(2, 3)
        assert mask.tokens.shape == (9, 9)
    q, k, v = qkv(3, 3)
    attend(q, k, v, mask).sum().backward()
    assert q.grad is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("residues", [5, 40])  # 35 tokens; 280, over two of FlexAttention's blocks of 128
def test_flex_attention_equals_sdpa(residues):
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    mask = block_causal_mask(FRAMES, residues)
    inputs = [x.detach() for x in qkv(residues, COPIES)]  # on CPUs it has no backward
    dense, sparse = attend(*inputs, mask), flex_attend(*inputs, mask, flex.flex_attention)
    assert (dense - sparse).abs().max() < 1e-4
    assert (attend(*inputs) - dense).abs().max() > 0.1, "the mask hides nothing"


def test_dense_masks_up_to_some_thousand_tokens(monkeypatch):
    """By count and device; past it the sparse kernel is taken, with the same result."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    sizes = (100, kernels.DENSE_TOKENS, kernels.DENSE_TOKENS + 1, 100_000)
    assert [kernels.takes_flex(gpu, count) for count in sizes] == [False, False, True, True]
    assert not any(kernels.takes_flex(cpu, count) for count in sizes)
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    mask, calls = block_causal_mask(2, 5), []

    def kernel(query, key, value, block_mask):
        calls.append(block_mask)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.tokens)

    inputs = [x.detach() for x in qkv(5, 3)]
    dense = attend(*inputs, mask)
    assert not calls
    monkeypatch.setattr(kernels, "takes_flex", lambda device, tokens: tokens > 10)
    monkeypatch.setattr(kernels, "compiled_flex", lambda: kernel)
    assert torch.equal(attend(*inputs, mask), dense)
    assert len(calls) == 1 and isinstance(calls[0], flex.BlockMask)


def test_flex_that_fails_later_is_left_once_and_for_all(monkeypatch):
    """At a length it has not met, or one compilation too many: the dense mask serves, and one warning says so."""
    pytest.importorskip("torch.nn.attention.flex_attention")
    calls = []

    def broken(*_, **__):
        calls.append(1)
        raise RuntimeError("recompile limit\nand more")

    monkeypatch.setattr(kernels, "takes_flex", lambda *_: True)
    monkeypatch.setattr(kernels, "_flex_failures", [])
    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    made = kernels.compiled_flex
    monkeypatch.setattr(kernels, "compiled_flex", lambda: None if kernels._flex_failures else broken)
    monkeypatch.setattr(kernels.compiled_flex, "cache_clear", made.cache_clear, raising=False)
    mask = block_causal_mask(2, 5)
    inputs = [x.detach() for x in qkv(5, 3)]
    with pytest.warns(RuntimeWarning, match="recompile limit.*dense mask") as caught:
        found = [attend(*inputs, mask) for _ in range(3)]
    assert len(caught) == len(calls) == 1
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask.tokens)
    assert all(torch.equal(x, expected) for x in found)

    def full(*_, **__):
        raise torch.OutOfMemoryError("a batch too large is no fault of the kernel")

    monkeypatch.setattr(kernels, "compiled_flex", lambda: full)
    with pytest.raises(torch.OutOfMemoryError):
        attend(*inputs, mask)


@pytest.mark.slow
def test_one_compiled_flex_serves_all_lengths():
    """Dynamo alone, without a code generator: two compilations, the second of which takes any number of blocks."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    testing = pytest.importorskip("torch._dynamo.testing")
    torch._dynamo.reset()
    counter = testing.CompileCounter()
    kernel = kernels.compile_flex(flex.flex_attention, backend=counter)
    for residues in (20, 33, 47, 60, 76, 100):
        for frames in (4, 5):
            mask = block_causal_mask(frames, residues)
            inputs = [x.detach() for x in qkv(residues, 2 * frames - 1)]
            assert (flex_attend(*inputs, mask, kernel) - attend(*inputs, mask)).abs().max() < 1e-4
    assert counter.frame_count == 2
    torch._dynamo.reset()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_compiled_flex_attention_equals_dense_mask_on_cuda(dtype, tolerance, monkeypatch):
    monkeypatch.setattr(kernels, "DENSE_TOKENS", 0)
    assert kernels.compiled_flex() is not None
    for residues in (20, 76, 131):  # other sizes must not need another kernel to be right
        mask = block_causal_mask(FRAMES, residues, "cuda")
        inputs = qkv(residues, COPIES, "cuda", dtype)
        dense = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=mask.tokens)
        sparse = attend(*inputs, mask)
        assert sparse.dtype == dtype and (dense - sparse).abs().max() < tolerance
        gradients = [torch.autograd.grad(x.float().square().sum(), inputs) for x in (dense, sparse)]
        for a, b in zip(*gradients, strict=True):
            assert (a - b).abs().max() < 10 * tolerance


def test_flex_that_does_not_compile_is_left_with_a_warning(monkeypatch):
    pytest.importorskip("torch.nn.attention.flex_attention")

    def broken(*_, **__):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    monkeypatch.setattr(kernels, "_flex_failures", [])
    kernels.compiled_flex.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="does not compile here"):
            assert kernels.compiled_flex() is None
    finally:
        kernels.compiled_flex.cache_clear()


@pytest.mark.parametrize("attention", ["joint", "separable"])
@torch.inference_mode()
def test_cache_gives_what_the_whole_sequence_gives(attention):
    """Frame by frame against a plainly causal pass, with drawing passes in between that leave no trace."""
    s, condition, angles = tokens(5)
    causal = replace(block_causal_mask(5, RESIDUES), frames=torch.ones(5, 5, dtype=torch.bool).tril())
    built = layer(attention)
    whole = built(s, condition, angles, causal)
    cache = KVCache()
    for frame in range(5):
        one = slice(frame, frame + 1)
        here = rotary(torch.tensor([frame]))
        for _ in range(2):
            built(torch.randn_like(s[:, one]), condition[:, one], here, cache=cache)
        stored = built(s[:, one], condition[:, one], here, cache=cache, store=True)
        assert (stored - whole[:, one]).abs().max() < 1e-5
        assert cache.keys[0].shape[-2] == (frame + 1) * RESIDUES


@torch.inference_mode()
def test_cache_returns_what_concatenation_gives():
    cache, history = KVCache(), torch.empty(1, 2, 0, 8)
    for _ in range(6):
        new = torch.randn(1, 2, 3, 8)
        for store in (False, False, True):
            keys, values = cache.extended(0, new, -new, store)
            assert torch.equal(keys, torch.cat([history, new], -2)) and torch.equal(values, -keys)
        history = torch.cat([history, new], -2)
    assert torch.equal(cache.keys[0], history)


def test_cache_refuses_gradients():
    key = torch.ones(1, 1, 2, 4, requires_grad=True)
    with pytest.raises(ValueError, match="holds no gradients"):
        KVCache().extended(0, key, key, False)


def test_separable_attention_looks_along_one_axis_at_a_time():
    s, condition, angles = tokens(3)
    built = layer("separable")
    changed = s.clone()
    changed[:, 0, 2] += torch.linspace(-1, 1, 32)
    difference = (built(changed, condition, angles) - built(s, condition, angles)).abs().amax((0, -1))  # [F, N]
    # residue 2 carries the change to other frames, and from there it spreads
    assert (difference > 1e-6).all()
    for mix, seen in ((built._over_frames, (slice(None), 2)), (built._over_residues, (0, slice(None)))):
        moved = (mix(changed, angles, None, None, False) - mix(s, angles, None, None, False)).abs().amax((0, -1)) > 1e-6
        expected = torch.zeros(3, RESIDUES, dtype=torch.bool)
        expected[seen] = True
        assert torch.equal(moved, expected)


def test_separable_attention_has_the_parameters_of_joint_attention():
    joint, separable = (Network(replace(preset("mini"), attention=kind)) for kind in ("joint", "separable"))
    shapes = [{name: value.shape for name, value in x.state_dict().items()} for x in (joint, separable)]
    assert shapes[0] == shapes[1]


def test_every_parameter_of_separable_attention_is_used():
    s, condition, angles = tokens(3)
    built = layer("separable")
    built(s, condition, angles).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert (parameter.grad != 0).reshape(parameter.shape[0], -1).any(1).all(), name
