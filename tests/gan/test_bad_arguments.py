"""Every public function of chapter 01 with bad arguments."""

import pytest
import torch

from companion import gan
from tests.bad_arguments import check_answers, check_complete

A, B = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
X = torch.tensor([[0.0, 1], [2, 3], [4, 0], [1, 1]])
Y = torch.tensor([[1.0, 1], [0, 2], [5, 0], [3, 3]])


def calls():
    """A right call of each public function: the function and its arguments."""
    size = {"size": 4, "width": 1, "levels": 1, "num_classes": 2}
    train = {"generator": gan.ImageGenerator(3, **size), "data": torch.ones(3, 1, 4, 4)}
    train |= {"discriminator": gan.ImageDiscriminator(**size, batch_norm=False)}
    train |= {"loss": gan.hinge_loss, "labels": torch.tensor([0, 1, 1])}
    train |= {"n_critic": 1, "gamma": 0.5, "ema": 0.5, "batch_size": 2, "learning_rate": 0.1}
    train |= {"betas": (0.5, 0.9)}
    plain = gan.Discriminator(2, width=3, depth=1)
    losses = gan.hinge_loss, gan.least_squares_loss, gan.minimax_loss, gan.non_saturating_loss
    return {
        **{loss: {"real_logits": A, "fake_logits": B} for loss in losses},
        gan.Discriminator: {"in_features": 2, "width": 3, "depth": 1},
        gan.GANStep: train,
        gan.Generator: {"latent_features": 2, "out_features": 2, "width": 3, "depth": 1},
        gan.ImageDiscriminator: {"channels": 1, **size},
        gan.ImageGenerator: {"latent_features": 3, "channels": 1, **size},
        gan.frechet_distance: {"x_ND": X, "y_MD": Y},
        gan.gaussian_grid: {"n": 3, "side": 2, "spacing": 1.0, "std": 0.1},
        gan.gaussian_ring: {"n": 3, "modes": 3, "radius": 1.0, "std": 0.1},
        gan.grid_centres: {"side": 3, "spacing": 1.0},
        gan.jensen_shannon: {"p": A, "q": B},
        gan.mode_coverage: {"samples": X, "centers": Y, "radius": 0.5, "least_share": 0.1},
        gan.optimal_discriminator: {"p": A, "q": B},
        gan.precision_recall: {"real": X, "fake": Y, "neighbours": 2},
        gan.r1_penalty: {"discriminator": plain, "real": X, "gamma": 0.5},
        gan.ring_centres: {"modes": 3, "radius": 1.0},
        gan.train_gan: train | {"steps": 1, "evaluate_every": 1},
    }


def test_every_public_function_is_here():
    check_complete(gan, calls())


@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_get_an_error_that_helps():
    check_answers(calls())
