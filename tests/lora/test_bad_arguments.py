"""Every public function of chapter 07 with bad arguments."""

import inspect

import pytest
import torch
from torch import nn

from companion import lora
from tests.bad_arguments import check_answers, check_complete


def adapted():
    model = nn.Sequential(nn.Linear(5, 3), nn.Embedding(7, 5))
    return lora.add_lora(model, targets=["0"], rank=2, alpha=1.0)


def product(function, **more):
    names = [name for name in inspect.signature(function).parameters if name not in more]
    factors = {"a_RI": torch.ones(2, 5), "b_OR": torch.ones(3, 2)}
    others = {"y": torch.ones(4, 3), "x": torch.ones(4, 5)}
    return {name: {**factors, **others}[name] for name in names} | more


def calls(tmp_path):
    """A right call of each public function: the function and its arguments."""
    lora.save_lora(adapted(), tmp_path)
    layer = {"rank": 2, "alpha": 1.0}
    two = {"a1": torch.eye(2, 5), "a2": torch.eye(3, 5)}
    return {
        lora.DoRALinear: {"base": nn.Linear(5, 3), **layer},
        lora.LoRAConv2d: {"base": nn.Conv2d(2, 3, 2), **layer},
        lora.LoRAEmbedding: {"base": nn.Embedding(7, 5), **layer},
        lora.LoRALinear: {"base": nn.Linear(5, 3), **layer},
        lora.QuantizedLinear: {"base": nn.Linear(5, 3), "block": 3},
        lora.add_lora: {"model": nn.Sequential(nn.Linear(5, 3)), "targets": ["0"], **layer},
        lora.add_low_rank: product(lora.add_low_rank, scale=1.0),
        lora.add_low_rank_reference: product(lora.add_low_rank_reference, scale=1.0),
        lora.amplification: {"weight": torch.eye(3, 5), "delta": torch.eye(3, 5), "rank": 2},
        lora.dequantize_base_: {
            "model": lora.quantize_base_(nn.Sequential(nn.Linear(5, 3)), targets=["0"])
        },
        lora.init_pissa_: {"layer": lora.LoRALinear(nn.Linear(5, 3), **layer)},
        lora.load_lora: {
            "model": nn.Sequential(nn.Linear(5, 3), nn.Embedding(7, 5)),
            "folder": tmp_path,
        },
        lora.lora_delta: product(lora.lora_delta, scale=1.0),
        lora.lora_layers: {"model": adapted()},
        lora.lora_plus_groups: {"model": adapted(), "lr": 0.1, "ratio": 4.0},
        lora.merge_lora_: {"model": adapted()},
        lora.nf4_quantize: {"weight": torch.ones(6), "block": 3},
        lora.projected_norm: {
            "weight": torch.eye(3, 5),
            "basis_matrix": torch.eye(3, 5),
            "rank": 2,
        },
        lora.quantize_base_: {"model": nn.Sequential(nn.Linear(5, 3)), "targets": ["0"]},
        lora.random_similarity: {"i": 1, "j": 2, "width": 5},
        lora.rank_for_energy: {"delta": torch.eye(3, 5), "energy": 0.5},
        lora.remove_lora_: {"model": adapted()},
        lora.save_lora: {"model": adapted(), "folder": tmp_path / "new"},
        lora.subspace_similarity: {**two, "i": 1, "j": 2},
        lora.subspace_similarity_grid: two,
        lora.svd_of_product: product(lora.svd_of_product),
        lora.unmerge_lora_: {"model": lora.merge_lora_(adapted())},
    }


# Abstract; without arguments; a generator.
WITHOUT = {lora.LoRALayer, lora.nf4_code, lora.lora_parameters}


def test_every_public_function_is_here(tmp_path):
    check_complete(lora, calls(tmp_path), without=WITHOUT)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a folder may be called "x"
    check_answers(calls(tmp_path))
