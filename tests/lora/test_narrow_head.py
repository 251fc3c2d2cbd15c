"""A head cut to the tokens of a task: the loss by hand, and the model that keeps its own head."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from companion.language.upper_layers import StoredBatch, hidden_loss
from companion.lora.study.narrow_head import narrow_head_


class _Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(6, 3)

    def forward(self, inputs_embeds, use_cache):
        return SimpleNamespace(last_hidden_state=inputs_embeds)


class _Upper(nn.Module):
    """A decoder that returns its input, and a head of six tokens."""

    def __init__(self):
        super().__init__()
        self.model, self.lm_head = _Decoder(), nn.Linear(3, 6, bias=False)


def test_loss_is_a_choice_among_the_labels_that_occur():
    upper, generator = _Upper(), torch.Generator().manual_seed(0)
    head, hidden = upper.lm_head, torch.randn(1, 4, 3, generator=generator)
    first = StoredBatch(hidden, torch.tensor([[-100, 4, 1, -100]]))
    second = StoredBatch(hidden, torch.tensor([[-100, -100, 5, 1]]))
    (new_first,), (new_second,) = narrow_head_(upper, [first], [second])
    assert new_first.labels_BT.tolist() == [[-100, 1, 0, -100]]
    assert new_second.labels_BT.tolist() == [[-100, -100, 2, 0]]
    assert new_first.hidden_BTD is hidden
    logits = (hidden[0] @ head.weight.T)[:, [1, 4, 5]].log_softmax(-1)
    by_hand = -(logits[0, 1] + logits[1, 0]) / 2
    assert hidden_loss(upper, new_first).item() == pytest.approx(by_hand.item(), abs=1e-6)
    assert head.weight.shape == (6, 3)
    assert first.labels_BT.tolist() == [[-100, 4, 1, -100]]
    assert [p.shape for p in upper.parameters()] == [(3, 3)]  # the head alone, no embeddings
    assert not any(p.requires_grad for p in upper.parameters())
