import sys
import types

import pytest
import torch

from hjepa.nn import attention
from hjepa.nn.attention import attend, causal_mask, choose


@pytest.fixture
def xformers_double(monkeypatch):
    """xformers' layout (B, N, H, D) and additive bias, computed plainly: its own kernels need CUDA."""

    def memory_efficient_attention(q, k, v, attn_bias=None):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if attn_bias is not None:
            assert attn_bias.shape == scores.shape
            scores = scores + attn_bias
        return (scores.softmax(-1) @ v).transpose(1, 2)

    ops = types.SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    attention._xformers.cache_clear()
    yield
    attention._xformers.cache_clear()


@pytest.mark.parametrize("masked", [False, True])
def test_all_backends_agree(xformers_double, masked):
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 10, 8, generator=g)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[0, :3] = False
    mask = causal_mask(valid) if masked else None
    results = [attend(q, k, v, mask, backend) for backend in ("sdpa", "matmul", "xformers")]
    assert torch.allclose(results[0], results[1], atol=1e-5)
    assert torch.allclose(results[0], results[2], atol=1e-5)


def test_the_short_bfloat16_backend_on_cpu_is_plain_matmul():
    q = torch.zeros(1, 1, 64, 8)
    assert choose(q) == "sdpa"
    assert choose(q.bfloat16()) == "matmul"
    assert choose(torch.zeros(1, 1, 1024, 8).bfloat16()) == "sdpa"


def test_xformers_is_never_chosen_on_cpu(xformers_double):
    assert choose(torch.zeros(1, 1, 64, 8)) == "sdpa"


def test_asking_for_xformers_where_it_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    attention._xformers.cache_clear()
    with pytest.raises(ValueError, match="legal: sdpa, matmul"):
        attend(*torch.zeros(3, 1, 1, 2, 2), backend="xformers")
    attention._xformers.cache_clear()


def test_a_masked_query_still_sees_itself():
    mask = causal_mask(torch.tensor([[False, True]]))
    assert mask[0, 0].tolist() == [[True, False], [False, True]]
