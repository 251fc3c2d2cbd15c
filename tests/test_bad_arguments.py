"""Every public function, called rightly but for one argument: an error that says what is wrong.

Only TypeError, ValueError and, for a folder, FileNotFoundError count, and only if they say what was
expected and what came.
"""

import copy
import inspect
import math
import types
import typing

import numpy as np
import pytest
import torch
from torch import nn

from companion import flash, lora, wasserstein

BAD = {
    "None": None,
    "a string": "x",
    "a list": [1.0],
    "a dict": {},
    "an object": object(),
    "complex": 1j,
    "an array": np.ones(3),
    "negative": -1,
    "zero": 0,
    "NaN": math.nan,
    "infinite": math.inf,
    "huge": 1e300,
    "an empty tensor": torch.zeros(0),
    "a tensor of other shape": torch.ones(2, 3, 4, 5),
    "a tensor of integers": torch.ones(3, dtype=torch.int64),
    "a tensor with NaN": torch.full((3,), math.nan),
    "a complex tensor": torch.ones(3, dtype=torch.complex64),
}
# What no argument of a public function can be, unless its annotation says so.
NEVER = ("a dict", "an object", "complex", "an array", "a complex tensor")

A, B, COST = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1], [2, 0]])
X, Y = torch.tensor([[0.0, 1], [2, 3], [4, 0]]), torch.tensor([[1.0, 1], [0, 2], [5, 0]])


def critic():
    return wasserstein.Critic(2, width=3, depth=1)


def generator():
    return wasserstein.Generator(4, 2, width=3, depth=1)


def adapted():
    model = nn.Sequential(nn.Linear(5, 3), nn.Embedding(7, 5))
    return lora.add_lora(model, targets=["0"], rank=2, alpha=1.0)


def optimiser(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


def nothing():
    """What takes no memory."""


def product(function, **more):
    names = [name for name in inspect.signature(function).parameters if name not in more]
    factors = {"a_RI": torch.ones(2, 5), "b_OR": torch.ones(3, 2)}
    others = {"y": torch.ones(4, 3), "x": torch.ones(4, 5)}
    return {name: {**factors, **others}[name] for name in names} | more


def calls(tmp_path):
    """A right call of each public function, by name: the function and its arguments."""
    real_critic, real_generator = critic(), generator()
    train = {"steps": 1, "constraint": "clip", "learning_rate": 0.1, "batch_size": 2}
    weights = {"a": A, "b": B, "cost": COST}
    lora.save_lora(adapted(), tmp_path)
    layer = {"rank": 2, "alpha": 1.0}
    two = {"a1": torch.eye(2, 5), "a2": torch.eye(3, 5)}
    w = wasserstein
    heads = {name: torch.ones(1, 2, 3, 16) for name in "qkv"}
    offsets = torch.tensor([0, 1, 3])
    packed = {name: torch.ones(3, 2, 16) for name in "qkv"}
    packed |= {"q_offsets": offsets, "k_offsets": offsets}
    choices = {"causal": True, "window": (2, 0), "scale": 0.5}
    return {
        w.Critic: {"in_features": 2, "width": 3, "depth": 1},
        w.Generator: {"latent_features": 2, "out_features": 2, "width": 3, "depth": 1},
        w.SpectralNorm: {"weight": COST},
        w.WGANStep: {"generator": generator(), "critic": critic(), "data": X, "batch_size": 2},
        w.c_transform: {"f": A, "cost": COST},
        w.clip_weights_: {"module": critic(), "limit": 0.1},
        w.critic_loss: {"real_scores": A, "fake_scores": B},
        w.critic_step: {
            "critic": real_critic,
            "optimiser": optimiser(real_critic),
            "real": X,
            "fake": Y,
            "constraint": "clip",
        },
        w.critic_steps_at: {"step": 3},
        w.equality_matrix: {"n": 2, "m": 3},
        w.exact_transport: weights,
        w.generator_loss: {"fake_scores": B},
        w.generator_step: {
            "generator": real_generator,
            "critic": critic(),
            "optimiser": optimiser(real_generator),
            "noise": torch.ones(3, 4),
        },
        w.gradient_norms: {"critic": critic(), "points": X},
        w.gradient_penalty: {"critic": critic(), "real": X, "fake": Y},
        w.lipschitz_estimate: {"critic": critic(), "x": X, "y": Y},
        w.log_sinkhorn: weights | {"epsilon": 0.5, "max_iter": 3},
        w.published_optimiser: {"module": critic(), "constraint": "clip"},
        w.ring_centres: {"modes": 3, "radius": 1.0},
        w.ring_of_gaussians: {"n": 3, "modes": 3, "radius": 1.0, "std": 0.1},
        w.sinkhorn: weights | {"epsilon": 0.5, "tol": 1e-3, "max_iter": 99},
        w.sinkhorn_divergence: {"x": X, "y": Y, "epsilon": 0.5, "p": 2},
        w.sliced_wasserstein: {"x": X, "y": Y, "p": 2, "num_projections": 3},
        w.soft_c_transform: {"f": A, "a": A, "cost": COST, "epsilon": 0.5},
        w.solve_dual: weights,
        w.solve_primal: weights,
        w.spectral_normalise_: {"module": critic(), "iterations": 1},
        w.train_critic: {"critic": critic(), "real": X, "fake": Y, **train},
        w.train_wgan: {"generator": generator(), "critic": critic(), "data": X, **train},
        w.wasserstein_1d: {"x": A, "y": B, "p": 1, "x_weights": A, "y_weights": B},
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


def test_every_public_function_is_here(tmp_path):
    public = {getattr(room, name) for room in (wasserstein, lora, flash) for name in room.__all__}
    public = {thing for thing in public if callable(thing)}
    results = {t for t in public if hasattr(t, "_fields") or hasattr(t, "__dataclass_fields__")}
    # Abstract; without required arguments; a generator; a context manager.
    without = {lora.LoRALayer, lora.nf4_code, lora.lora_parameters, flash.attention_backend}
    assert public - results - without == calls(tmp_path).keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a folder may be called "x"
    silent, unclear = [], []
    for function, arguments in calls(tmp_path).items():
        function(**copy.deepcopy(arguments))  # so that the table is right
        annotations = hints(function)
        for name in arguments:
            for kind, value in BAD.items():
                where = f"{function.__name__}({name}={kind})"
                try:
                    function(**copy.deepcopy(arguments) | {name: value})
                except (TypeError, ValueError, FileNotFoundError) as error:
                    said = str(error)
                    if not (("expected" in said or "must" in said) and "got" in said):
                        unclear.append(f"{where}: {type(error).__name__}: {said[:90]}")
                except Exception as error:
                    unclear.append(f"{where}: {type(error).__name__}: {str(error)[:90]}")
                else:
                    if is_never(kind, annotations[name]):
                        silent.append(where)
    assert unclear == []
    assert silent == []


def hints(function) -> dict[str, object]:
    return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)


def is_never(kind: str, annotation: object) -> bool:
    """Whether an argument with this annotation can never be of this kind."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return all(is_never(kind, option) for option in typing.get_args(annotation))
    if kind in NEVER:
        return True
    return {"None": annotation is not type(None), "a string": annotation is not str}.get(
        kind, False
    )
