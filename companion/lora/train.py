"""The full-size recipe: adapters for any causal language model of transformers, resumable.

    python -m companion.lora.train --model smollm2 --data records.jsonl --held-out-fraction 0.1
    torchrun --nproc-per-node 2 -m companion.lora.train --model PATH --data records.jsonl …

Stop it at any time; the same command carries on from its last checkpoint, bit for bit (on a GPU as
far as its own kernels repeat their bits). Several processes share each batch out and end with the
adapters of one, but for rounding and dropout. The result, ``OUT/adapter``, opens here with
``load_lora`` and elsewhere with ``peft.PeftModel.from_pretrained``.
Chapter: course/07_lora.ipynb.
"""

import argparse
import hashlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from companion.language.fine_tuning import FineTuning
from companion.language.jsonl import read_jsonl
from companion.language.pretrained import (
    MAX_TOKENS,
    check_vocabulary,
    encode_records,
    longest_sequence,
    pretrained,
    split,
)
from companion.language.records import Example, predicted_tokens
from companion.lora.injection import add_lora, lora_layers, lora_parameters
from companion.lora.layer import Variant
from companion.lora.lora_plus import lora_plus_groups
from companion.lora.peft_files.folder import save_lora
from companion.lora.preparation import default_targets, quantize_linear_layers_
from companion.training import fit
from companion.training.arguments import at_least, between, recipe_arguments
from companion.training.precision import DTYPE, Precision
from companion.training.process_group import check_alike, is_first, process_group, say
from companion.training.run_record import Evaluations, Log, Settings
from companion.training.seeds import stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["main"]

Record = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Train as the command line asks; everything is checked before the first step.

    Returns:
        ``loss``, ``learning_rate`` and ``tokens`` of every step; ``held_out_step`` and
        ``held_out_loss`` of every evaluation.

    Raises:
        ValueError: If a record, a setting or an earlier checkpoint does not fit; the message
            says which. Nothing has been written then.
    """
    options = _parser().parse_args(arguments)
    with process_group(options.device) as device:
        _fill_in_defaults(options, device)
        return _run(options, device)


def _run(options: argparse.Namespace, device: torch.device) -> dict[str, list[float]]:
    records = read_jsonl(options.data)
    unseen = read_jsonl(options.held_out) if options.held_out else []
    settings = Settings(_settings(options), options.out / "checkpoint.safetensors")
    done = 0 if options.fresh else settings.check()
    check_alike({"settings": settings.values, "steps done": done})
    model, examples, held_out = _model_and_data(options, records, unseen)
    model.to(device)
    rate, ratio = options.learning_rate, options.lora_plus_ratio
    tuning = FineTuning(
        model,
        lora_parameters(model) if ratio is None else lora_plus_groups(model, lr=rate, ratio=ratio),
        examples,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=rate,
        warmup=options.warmup,
        precision=options.precision,
        seed=options.seed,
    )
    say(
        f"{sum(p.numel() for p in lora_parameters(model))} parameters in "
        f"{len(lora_layers(model))} layers are trained, on {len(examples)} records with "
        f"{sum(map(predicted_tokens, examples))} completion tokens; {len(held_out)} held out"
    )
    with tempfile.TemporaryDirectory() as folder:
        save_lora(model, folder)  # what cannot be saved is refused before it is trained
    history = _fit(tuning, held_out, settings, options, done=done)
    if is_first():
        save_lora(model, options.out / "adapter")
    say(f"adapter: {options.out / 'adapter'}")
    return history


def _model_and_data(
    options: argparse.Namespace, records: Sequence[Record], unseen: Sequence[Record]
) -> "tuple[PreTrainedModel, list[Example], list[Example]]":
    """The adapted model, training examples and held-out examples."""
    model, tokenizer = pretrained(options.model, dtype=DTYPE[options.precision])
    longest = longest_sequence(model, options.max_tokens)
    examples = encode_records(tokenizer, records, max_tokens=longest, file=options.data)
    held_out = encode_records(tokenizer, unseen, max_tokens=longest, file=options.held_out)
    check_vocabulary(model, examples + held_out)
    if options.held_out_fraction:
        examples, held_out = split(examples, fraction=options.held_out_fraction, seed=options.seed)
    targets = options.targets or default_targets(model)
    if options.four_bit:
        quantize_linear_layers_(model)
    add_lora(
        model,
        targets=targets,
        rank=options.rank,
        alpha=options.alpha,
        variant=options.variant,
        dropout=options.dropout,
        generator=torch.Generator().manual_seed(stream(options.seed, "adapters")),
    )
    return model, examples, held_out


def _fit(
    tuning: FineTuning,
    held_out: Sequence[Example],
    settings: Settings,
    options: argparse.Namespace,
    *,
    done: int,
) -> dict[str, list[float]]:
    """All steps, those before a restart included; the first that writes to the folder."""
    if is_first():
        options.out.mkdir(parents=True, exist_ok=True)
        if options.fresh:  # else a run killed before its first save would continue the old one
            settings.checkpoint.unlink(missing_ok=True)
    evaluations = Evaluations()
    history = fit(
        _logged(tuning, held_out, evaluations, options, done=done),
        steps=options.steps,
        state=tuning.state | {"settings": settings, "evaluations": evaluations},
        checkpoint=settings.checkpoint,
        checkpoint_every=options.checkpoint_every,
        resume=not options.fresh,
        save=is_first(),
        progress=is_first(),
    )
    return history | evaluations.measured()


def _logged(
    tuning: FineTuning,
    held_out: Sequence[Example],
    evaluations: Evaluations,
    options: argparse.Namespace,
    *,
    done: int,
) -> Callable[[int], dict[str, float]]:
    """A step of training that writes the log, and evaluates when it is time to."""
    log = Log(options.out / "log.jsonl", done=done) if is_first() else None

    def report(step: int, line: dict[str, float]) -> None:
        if step % options.evaluate_every == 0 or step == options.steps:
            if held_out:
                line["held_out_loss"] = evaluations.add(step, tuning.held_out_loss(held_out))
            names = {"loss": "loss", "held_out_loss": "held-out loss"}
            if shown := [f"{names[n]} {line[n]:.4f}" for n in names if n in line]:
                say(f"step {step}: {', '.join(shown)} nats per token")
        if log and line:
            log.write({"step": step} | line)

    def step(i: int) -> dict[str, float]:
        if i == 0:
            report(0, {})  # what the model knows before it learns
        measures = tuning(i)
        report(i + 1, dict(measures))
        return measures

    return step


def _fill_in_defaults(options: argparse.Namespace, device: torch.device) -> None:
    if options.precision is None:
        options.precision = "bf16" if device.type == "cuda" else "fp32"
    if options.warmup is None:
        options.warmup = options.steps // 20
    if options.warmup >= options.steps:
        raise ValueError(f"expected --warmup below --steps {options.steps}, got {options.warmup}")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What decides the numbers of a run; where it runs and when it writes do not."""
    others = {"device", "out", "checkpoint_every", "evaluate_every", "fresh"}
    values = {name: value for name, value in vars(options).items() if name not in others}
    files = {name: values[name] for name in ("data", "held_out") if values[name] is not None}
    return values | {name: _fingerprint(file) for name, file in files.items()}


def _fingerprint(file: Path) -> str:
    return "sha256 " + hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m companion.lora.train",
        description="Train adapters for a causal language model. Stop at any time: the same "
        "command carries on from its last checkpoint. torchrun starts it on several processes.",
        epilog='FILE holds one JSON object per line: {"prompt": …, "completion": …}, {"text": …} '
        'or {"messages": [{"role": …, "content": …}, …]}. The loss is on the completion, on the '
        "whole text, or on the assistant's last message.",
    )
    add = parser.add_argument
    add("--model", required=True, help="smollm2, or a name or folder that transformers can load")
    add("--data", type=Path, required=True, metavar="FILE", help="records to learn from")
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument("--held-out", type=Path, metavar="FILE", help="records to evaluate on")
    held_out.add_argument(
        "--held-out-fraction",
        type=between(0, 1),
        metavar="X",
        help="part of --data to evaluate on",
    )
    add("--targets", nargs="+", metavar="LAYER", help="default: q_proj v_proj, or GPT-2's c_attn")
    add("--rank", type=at_least(1), default=8, help="of the update (%(default)s)")
    add(
        "--alpha",
        type=between(0, math.inf),
        default=16.0,
        help="numerator of the update's scale (%(default)s)",
    )
    add("--dropout", type=float, default=0.0, help="on what enters the update (%(default)s)")
    add("--variant", choices=get_args(Variant), default="lora", help="(%(default)s)")
    add("--four-bit", action="store_true", help="hold the frozen linear layers in NF4 (QLoRA)")
    add(
        "--lora-plus-ratio",
        type=between(0, math.inf),
        help="B's learning rate over A's (default: one rate)",
    )
    recipe_arguments(parser, steps=500, checkpoint_every=50, out="lora_run")
    add(
        "--batch-size",
        type=at_least(1),
        default=16,
        help="of all processes together (%(default)s)",
    )
    add(
        "--learning-rate",
        type=between(0, math.inf),
        default=2e-4,
        help="at its highest (%(default)s)",
    )
    add("--warmup", type=at_least(0), help="steps in which it rises (default: a twentieth of all)")
    add("--max-tokens", type=at_least(2), help=f"default: the model's own, up to {MAX_TOKENS}")
    add(
        "--precision",
        choices=get_args(Precision),
        help="of base and arithmetic; adapters are fp32, and fp16 scales the loss "
        "(default: bf16 on cuda, else fp32)",
    )
    add("--evaluate-every", type=at_least(1), default=50, help="steps (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
