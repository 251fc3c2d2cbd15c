"""Every public function of chapter 09 with bad arguments."""

import pytest
import torch

from companion import flash
from tests.bad_arguments import check_answers, check_complete

A, B, COST = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1], [2, 0]])


def nothing():
    """What takes no memory."""


def calls():
    """A right call of each public function: the function and its arguments."""
    heads = {name: torch.ones(1, 2, 3, 16) for name in "qkv"}
    offsets = torch.tensor([0, 1, 3])
    packed = {name: torch.ones(3, 2, 16) for name in "qkv"}
    packed |= {"q_offsets": offsets, "k_offsets": offsets}
    choices = {"causal": True, "window": (2, 0), "scale": 0.5}
    return {
        flash.flash_attention: heads | choices,
        flash.flash_attention_varlen: packed | choices,
        flash.flash_decode: {
            "q": torch.ones(1, 2, 16),
            "k_cache": torch.ones(1, 1, 3, 16),
            "v_cache": torch.ones(1, 1, 3, 16),
            "lengths": torch.tensor([3]),
            "splits": 2,
            "scale": 0.5,
        },
        flash.hbm_bytes: {
            "n": 64,
            "d": 8,
            "sram_bytes": 10_000,
            "element_bytes": 4,
            "algorithm": "flash",
        },
        flash.merge_normalisers: {"first": (A, B), "second": (B, A)},
        flash.merge_partials: {"outs": torch.ones(2, 3, 4), "lses": torch.ones(2, 3)},
        flash.naive_attention: heads | choices,
        flash.online_softmax: {"x": COST, "block": 1},
        flash.peak_bytes: {"fn": nothing, "device": "cpu"},
        flash.safe_softmax: {"x": COST},
        flash.tiled_attention: heads | choices | {"query_tile": 2, "key_tile": 2},
    }


def test_every_public_function_is_here():
    check_complete(flash, calls(), without={flash.attention_backend})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps():
    check_answers(calls())
