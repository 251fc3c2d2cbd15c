"""Every public function of chapter 02 with bad arguments."""

import pytest
import torch

from companion import wasserstein as w
from tests.bad_arguments import check_answers, check_complete

A, B, COST = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1], [2, 0]])
X, Y = torch.tensor([[0.0, 1], [2, 3], [4, 0]]), torch.tensor([[1.0, 1], [0, 2], [5, 0]])


def critic():
    return w.Critic(2, width=3, depth=1)


def generator():
    return w.Generator(4, 2, width=3, depth=1)


def optimizer(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


def calls():
    """A right call of each public function: the function and its arguments."""
    real_critic, real_generator = critic(), generator()
    train = {"steps": 1, "constraint": "clip", "learning_rate": 0.1, "batch_size": 2}
    weights = {"a": A, "b": B, "cost": COST}
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
            "optimizer": optimizer(real_critic),
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
            "optimizer": optimizer(real_generator),
            "noise": torch.ones(3, 4),
        },
        w.gradient_norms: {"critic": critic(), "points": X},
        w.gradient_penalty: {"critic": critic(), "real": X, "fake": Y},
        w.lipschitz_estimate: {"critic": critic(), "x": X, "y": Y},
        w.log_sinkhorn: weights | {"epsilon": 0.5, "max_iter": 3},
        w.published_optimizer: {"module": critic(), "constraint": "clip"},
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
    }


def test_every_public_function_is_here():
    check_complete(w, calls())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps():
    check_answers(calls())
