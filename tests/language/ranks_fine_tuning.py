"""What the ranks of test_fine_tuning.py run."""

import math

import torch

from companion.language.fine_tuning import FineTuning
from companion.language.records import Example
from companion.lora.injection import add_lora, lora_parameters
from companion.training.precision import PrecisionPolicy
from tests.language.tiny_language_model import llama


def steps_of_rank(rank, world_size, overflowing):
    """Per step the scale and every adapter's weights; one rank's gradient overflows in each."""
    torch.set_num_threads(1)
    start = torch.Generator().manual_seed(0)
    model = add_lora(llama(), targets=["q_proj", "o_proj"], rank=3, alpha=5.0, generator=start)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    tuning = FineTuning(
        model,
        lora_parameters(model),
        [Example([(7 * i + j) % 331 for j in range(4 + i % 5)], i % 3) for i in range(11)],
        steps=len(overflowing) + 1,
        batch_size=4,
        learning_rate=0.01,
        precision=PrecisionPolicy("fp16", "cpu", scaler=scaler),
    )
    now = [None]
    tuning.parameters[0].register_hook(lambda g: g + math.inf if rank == now[0] else g)
    rows = []
    for step, now[0] in enumerate(overflowing):
        tuning(step)
        rows.append((scaler.get_scale(), [p.detach().clone() for p in tuning.parameters]))
    return rows
