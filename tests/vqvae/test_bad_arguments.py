"""The networks, the model, its training and the studies with bad arguments.

Those of the quantizers: test_quantizer.py.
"""

import pytest
import torch

from companion import vqvae
from companion.vqvae.study.relaxed import edge_distance, loss_of_each_code, relaxed_gradient
from tests.bad_arguments import check_answers, check_complete

ELSEWHERE = {
    *(vqvae.VectorQuantizer, vqvae.EMAVectorQuantizer, vqvae.FiniteScalarQuantizer),
    *(vqvae.ResidualQuantizer, vqvae.Quantized, vqvae.VQVAEHistory, vqvae.VQVAEOutput),
}
CODES = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])


def calls():
    """A right call of each public function: the function and its arguments."""
    size = {"channels": 1, "width": 2, "levels": 1, "residual_blocks": 1}
    size |= {"generator": torch.Generator()}
    model = vqvae.VQVAE(vqvae.VectorQuantizer(3, 2), **size)
    step = {"model": model, "images": torch.rand(3, 1, 4, 4), "batch_size": 2}
    step |= {"learning_rate": 0.1, "generator": torch.Generator()}
    pair = {"z": torch.ones(2, 2), "z_q": torch.zeros(2, 2)}
    nearest = {"z": torch.ones(5, 2), "codebook": CODES}
    use = {"indices": torch.tensor([0, 2]), "num_codes": 3}
    return {
        vqvae.Decoder: {"dim": 2, **size},
        vqvae.Encoder: {"dim": 2, **size},
        vqvae.VQVAE: {"quantizer": vqvae.VectorQuantizer(3, 2), **size},
        vqvae.VQVAEStep: step,
        vqvae.nearest_code: nearest,
        vqvae.perplexity: use,
        vqvae.rotate_through: pair,
        vqvae.squared_distances: nearest,
        vqvae.straight_through: pair,
        vqvae.train_vqvae: step | {"steps": 1, "evaluate": lambda: 0, "evaluate_every": 1},
        vqvae.usage: use,
    }


def studies():
    look = {"model": vqvae.VQVAE(vqvae.VectorQuantizer(3, 2), width=2), "place": (0, 1)}
    look |= {"image": torch.rand(1, 1, 4, 8), "indices": torch.tensor([[[0, 2]]])}
    return {
        edge_distance: {"z": torch.ones(5, 2), "codebook": CODES},
        loss_of_each_code: look,
        relaxed_gradient: {"losses": torch.arange(3.0), "z": torch.ones(2), "codebook": CODES}
        | {"sigma": 0.5, "draws": 2},
    }


def test_every_public_function_is_here():
    check_complete(vqvae, calls(), without=ELSEWHERE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("table", [calls, studies])
def test_bad_arguments_get_an_error_that_helps(table):
    check_answers(table())
