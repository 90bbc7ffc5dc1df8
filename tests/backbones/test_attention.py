"""The two ways in which attention is computed agree."""

import pytest
import torch
import torch.nn.functional as F

from muybridge.backbones.vit import attend


@pytest.mark.parametrize("queries", [1, 9])
def test_products_in_bf16_are_as_exact_as_the_fused_attention(queries):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 16, generator=generator, dtype=torch.float64) for length in (queries, 9, 9))
    weight = torch.randn(2, 3, queries, 16, generator=generator, dtype=torch.float64)

    def run(attention, dtype):
        inputs = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in (q, k, v)]
        out = attention(*inputs)
        (out.double() * weight).sum().backward()
        return [out.detach().double(), *(tensor.grad.double() for tensor in inputs)]

    exact = run(F.scaled_dot_product_attention, torch.float64)
    ours, fused = run(attend, torch.bfloat16), run(F.scaled_dot_product_attention, torch.bfloat16)
    for wanted, found, other in zip(exact, ours, fused, strict=True):
        error, rounding = (found - wanted).abs().max(), (other - wanted).abs().max()
        assert error <= max(2 * rounding, 2e-2 * wanted.abs().max())
        assert error > 0  # bf16 it is


def test_without_gradients_and_in_fp32_it_is_the_fused_attention(monkeypatch):
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    q = torch.randn(1, 2, 5, 8)
    attend(q, q, q)
    attend(q.requires_grad_(), q, q)
    attend(q.detach().bfloat16(), q.bfloat16(), q.bfloat16())
    attend(q.bfloat16(), q.bfloat16(), q.bfloat16(), causal=True)
    assert len(calls) == 4
    attend(q.bfloat16(), q.bfloat16(), q.bfloat16())
    assert len(calls) == 4
