"""LoRAEmbedding by hand, against one-hot inputs, and against PEFT on whole language models."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from companion.lora import LoRAEmbedding, LoRALinear, add_lora, lora_layers
from tests.lora.peft_oracle import (
    assert_same_gradient,
    llama,
    peft_twin,
    randomise_,
    seeded,
    tokens,
)


def adapted(*, vocabulary=11, width=5, rank=3, alpha=6.0, dtype=torch.float64, **settings):
    kinds = {"dropout", "scaling", "generator"}
    of_lora = {name: settings.pop(name) for name in kinds & settings.keys()}
    base = nn.Embedding(vocabulary, width, dtype=dtype, **settings)
    return randomise_(LoRAEmbedding(base, rank=rank, alpha=alpha, **of_lora))


def test_by_hand():
    layer = LoRAEmbedding(nn.Embedding(3, 2), rank=1, alpha=2.0)
    with torch.no_grad():
        layer.base.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
        layer.a_RV.copy_(torch.tensor([[0.0, 5.0, 7.0]]))
        layer.b_DR.copy_(torch.tensor([[1.0], [-1.0]]))
    assert layer(torch.tensor([2, 0])).tolist() == [[17.0, -11.0], [1.0, 1.0]]
    assert layer.delta().tolist() == [[0.0, 0.0], [10.0, -10.0], [14.0, -14.0]]


@pytest.mark.parametrize("batch", [(), (4,), (2, 3, 4), (0,)])
@pytest.mark.parametrize("scaling", ["alpha/r", "alpha/sqrt(r)"])
def test_is_linear_in_one_hot_tokens(batch, scaling, device):
    layer = adapted(scaling=scaling).to(device)
    ids = torch.randint(11, batch, generator=seeded()).to(device)
    one_hot = F.one_hot(ids, 11).double()
    scale = 2.0 if scaling == "alpha/r" else 6 / math.sqrt(3)
    table = layer.base.weight + scale * (layer.b_DR @ layer.a_RV).T
    torch.testing.assert_close(layer(ids), one_hot @ table)
    torch.testing.assert_close(layer.weight, table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_new_layer_is_its_base_exactly(dtype, device):
    base = nn.Embedding(11, 5, dtype=dtype, device=device)
    layer = LoRAEmbedding(base, rank=3, alpha=6.0)
    ids = torch.arange(11, device=device)
    assert torch.equal(layer(ids), base(ids))
    assert layer(ids).dtype == dtype
    assert layer.a_RV.dtype == layer.b_DR.dtype == torch.promote_types(dtype, torch.float32)
    assert not layer.a_RV.any()
    assert layer.b_DR.any()


@pytest.mark.parametrize("rslora", [False, True])
def test_same_logits_and_gradients_as_peft(rslora):
    base, targets = llama(), ["embed_tokens", "v_proj"]
    variant = "rslora" if rslora else "lora"
    ours = add_lora(copy.deepcopy(base), targets=targets, rank=4, alpha=10, variant=variant)
    randomise_(ours)
    theirs = peft_twin(base, ours, target_modules=targets, r=4, lora_alpha=10, use_rslora=rslora)
    ids = tokens(3, 7)
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    layer = ours.model.embed_tokens
    twin = theirs.base_model.model.model.embed_tokens
    for factor, peer in (
        (layer.a_RV, twin.lora_embedding_A["default"]),
        (layer.b_DR, twin.lora_embedding_B["default"]),
    ):
        assert_same_gradient(factor, peer)
    assert [type(m) for m in lora_layers(ours).values()] == [LoRAEmbedding, *[LoRALinear] * 2]


def test_first_and_second_derivatives():
    layer = adapted()
    ids = torch.tensor([[1, 1], [10, 0]])

    def call(a, b):
        return torch.func.functional_call(layer, {"a_RV": a, "b_DR": b}, (ids,))

    factors = [p.detach().clone().requires_grad_() for p in layer.adapter_parameters()]
    assert torch.autograd.gradcheck(call, factors)
    assert torch.autograd.gradgradcheck(call, factors)


def test_at_the_start_b_gets_no_gradient_and_a_does():
    layer = LoRAEmbedding(nn.Embedding(11, 5), rank=3, alpha=6.0)
    layer(torch.tensor([1, 4])).sum().backward()
    assert torch.equal(layer.b_DR.grad, torch.zeros(5, 3))
    expected = torch.zeros(3, 11)
    expected[:, [1, 4]] = 2 * layer.b_DR.detach().sum(0)[:, None]
    torch.testing.assert_close(layer.a_RV.grad, expected)


def test_the_padding_tokens_row_stays_as_it_is():
    layer = LoRAEmbedding(nn.Embedding(11, 5, padding_idx=-4), rank=3, alpha=6.0)
    assert layer.padding_idx == 7
    optimizer = torch.optim.SGD(layer.adapter_parameters(), lr=1.0)
    ids = torch.tensor([7, 7, 2])
    for _ in range(2):
        optimizer.zero_grad()
        (layer(ids) - 1).square().sum().backward()
        assert not layer.a_RV.grad[:, 7].any()
        assert layer.a_RV.grad[:, 2].all()
        optimizer.step()
    assert torch.equal(layer(ids)[0], layer.base.weight[7])
    assert not torch.equal(layer(ids)[2], layer.base.weight[2])


def test_gradients_scaled_by_frequency():
    plain, by_frequency = adapted(), adapted(scale_grad_by_freq=True)
    ids = torch.tensor([1, 1, 1, 6])
    for layer in (plain, by_frequency):
        layer(ids).sum().backward()
    expected = plain.a_RV.grad.clone()
    expected[:, 1] /= 3
    torch.testing.assert_close(by_frequency.a_RV.grad, expected)


def test_dropout_leaves_out_whole_tokens():
    layer = adapted(vocabulary=4, width=7, dropout=0.4)
    ids = torch.ones(4000, dtype=torch.int64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        update = (layer.train()(ids) - layer.base(ids)).detach()
    kept = update.abs().amax(1) > 1e-9
    assert kept.double().mean().item() == pytest.approx(0.6, abs=0.02)
    expected = (layer.delta()[1] / 0.6).expand(int(kept.sum()), 7)
    torch.testing.assert_close(update[kept], expected.detach())
    torch.testing.assert_close(layer.eval()(ids[:3]), layer.weight[1].expand(3, 7))


def test_b_is_standard_normal_and_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        base = nn.Embedding(400, 300)
    one, same, other = (
        LoRAEmbedding(base, rank=64, alpha=1.0, generator=seeded(s)) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.b_DR, same.b_DR)
    assert not torch.equal(one.b_DR, other.b_DR)
    assert one.b_DR.var().item() == pytest.approx(1, rel=0.03)
    assert one.b_DR.abs().max() > 3


def test_what_is_trained():
    layer = adapted()
    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"a_RV", "b_DR"}
    assert (layer.num_embeddings, layer.embedding_dim) == (11, 5)


def test_compiled_in_one_graph(device):
    layer = adapted().to(device)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    ids = torch.tensor([[1, 10, 0]], device=device)
    torch.testing.assert_close(compiled(ids), layer(ids))


class Scaled(nn.Embedding):
    def forward(self, token):
        return 3 * super().forward(token)


@pytest.mark.parametrize(
    "base",
    [nn.Linear(7, 5), Scaled(7, 5), parametrizations.weight_norm(nn.Embedding(7, 5))],
    ids=lambda base: type(base).__name__,
)
def test_another_kind_of_layer_is_refused(base):
    with pytest.raises(TypeError, match=f"expected nn.Embedding, got {type(base).__name__}"):
        LoRAEmbedding(base, rank=2, alpha=4.0)


def test_rows_with_a_largest_norm_are_refused():
    base = nn.Embedding(7, 5, max_norm=1.5)
    with pytest.raises(ValueError, match=r"base: expected max_norm=None, got 1\.5"):
        LoRAEmbedding(base, rank=2, alpha=4.0)
    assert base.weight.requires_grad


@pytest.mark.parametrize("rank", [0, 6])
def test_impossible_ranks(rank):
    with pytest.raises(ValueError, match=rf"rank must be in \[1, 5\], got {rank}"):
        LoRAEmbedding(nn.Embedding(7, 5), rank=rank, alpha=4.0)
