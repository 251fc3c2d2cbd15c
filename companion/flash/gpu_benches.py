"""Speed of attention on one GPU, beside PyTorch's own, and the ceilings of the machine.

A result is compared before it is timed. Contenders take turns, so that a card that grows warm
slows all of them; a round lasts at least 20 ms between two CUDA events; the median is kept.
Each peer is pinned with `sdpa_kernel`: left to choose, PyTorch may time something else.
"""

import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from companion.flash.attention import flash_attention
from companion.flash.decode import flash_decode
from companion.flash.naive import naive_attention
from companion.flash.study.cost import attention_flops

__all__ = ["attention_records", "ceilings", "decode_records", "interleaved_ms"]

LENGTHS = (1024, 2048, 4096, 8192, 16384)
BATCH, HEADS = 4, 32
PEERS = {"SDPA-FLASH": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
# How many times as fast as the peer we mean to be, at least; the backward has no bar for cuDNN.
BARS = {
    ("forward", 64, "SDPA-FLASH"): 1.2,
    ("forward", 128, "SDPA-FLASH"): 1.0,
    ("forward", 64, "cuDNN"): 0.75,
    ("forward", 128, "cuDNN"): 0.75,
    ("backward", 64, "SDPA-FLASH"): 1.0,
    ("backward", 128, "SDPA-FLASH"): 0.7,
}
COPY_BAR = 0.7  # of the copy bandwidth, for decoding
TOLERANCE = 0.02  # ‖ours − exact‖ ÷ ‖exact‖ in bfloat16, whose rounding alone is 0.004
ROUNDS = 9
ROUND_MS = 20.0

Run = Callable[[], Any]


def ceilings() -> dict[str, float]:
    """Measured: operations per second of a large product, bytes per second of a large copy.

    The factors are random: a card computes ones, which cost less power, faster than it can compute.
    """
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    times_ms = interleaved_ms({"product": lambda: a @ b, "copy": lambda: target.copy_(source)})
    found = {
        "matmul_bf16_tflops": 2 * 8192**3 / times_ms["product"] / 1e9,
        "copy_gbps": 2 * source.nbytes / times_ms["copy"] / 1e6,
    }
    print(found, flush=True)
    return found


def attention_records() -> list[dict[str, Any]]:
    """Forward and backward, D 64 and 128, N 1k to 16k, causal and not, B 4, H 32, bfloat16."""
    return [
        record
        for width, length, causal in product((64, 128), LENGTHS, (False, True))
        for record in _attention_records(width, length, causal)
    ]


def decode_records() -> list[dict[str, Any]]:
    """One token against caches of 32k to 128k keys, B 4, H 32, G 8, D 128, bfloat16."""
    copy_gbps = ceilings()["copy_gbps"]
    return [_decode_record(keys, copy_gbps) for keys in (32768, 65536, 131072)]


def interleaved_ms(runs: dict[str, Run], rounds: int = ROUNDS) -> dict[str, float]:
    """Milliseconds per call, the median of rounds in which every contender takes its turn."""
    repeats = {}
    for name, run in runs.items():
        run()  # compiles, and chooses algorithms
        repeats[name] = max(1, round(ROUND_MS / max(_round_ms(run, 3), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(runs):
            times[name].append(_round_ms(runs[name], repeats[name]))
    return {name: statistics.median(rounds_ms) for name, rounds_ms in times.items()}


def _round_ms(run: Run, repeats: int) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / repeats


def _attention_records(width: int, length: int, causal: bool) -> list[dict[str, Any]]:
    shape = (BATCH, HEADS, length, width)
    q, k, v, grad = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    outs = {"ours": flash_attention(q, k, v, causal=causal)}
    for name in PEERS:
        if (out := _or_none(lambda peer=name: _sdpa(peer, q, k, v, causal))) is not None:
            outs[name] = out
    forward: dict[str, Run] = {"ours": lambda: flash_attention(q, k, v, causal=causal)}
    forward |= {n: lambda n=n: _sdpa(n, q, k, v, causal) for n in outs if n != "ours"}
    backward: dict[str, Run] = {
        name: lambda out=out: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)
        for name, out in outs.items()
    }
    error = _relative_error(q, k, v, grad, causal)
    records = []
    for direction, runs in (("forward", forward), ("backward", backward)):
        with torch.set_grad_enabled(direction == "backward"):
            times_ms = interleaved_ms(runs) if error <= TOLERANCE else {}
        setting = {"direction": direction, "D": width, "N": length, "causal": causal}
        records.append(_attention_record(setting, times_ms, error))
        print(records[-1], flush=True)
    return records


def _attention_record(
    setting: dict[str, Any], times_ms: dict[str, float], error: float
) -> dict[str, Any]:
    """Times, rates and ratios of one setting; nothing is timed where the result was wrong."""
    direction, width = setting["direction"], setting["D"]
    operations = attention_flops(
        setting["N"],
        width,
        heads=BATCH * HEADS,
        causal=setting["causal"],
        backward=direction == "backward",
    )
    ours_ms = times_ms.get("ours")
    ratios = {n: times_ms[n] / ours_ms if n in times_ms else None for n in PEERS}
    bars = {n: BARS[direction, width, n] for n in PEERS if (direction, width, n) in BARS}
    # A peer that did not run leaves its bar unmet: what was not measured was not shown.
    met = all((ratios[n] or 0.0) >= bar for n, bar in bars.items())
    return setting | {
        "times_ms": times_ms,
        "tflops": {name: operations / ms / 1e9 for name, ms in times_ms.items()},
        "ratios": ratios,
        "bars": bars,
        "relative_error": error,
        "passed": ours_ms is not None and met,
    }


def _relative_error(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, causal: bool) -> float:
    """The largest ‖ours − exact‖ ÷ ‖exact‖ of output and gradients; NaN counts as infinite.

    Exact is `naive_attention` in float32 of the first and of the last head, that memory suffices.
    """
    worst = 0.0
    for batch, head in ((0, 0), (BATCH - 1, HEADS - 1)):
        part = [x.detach()[batch : batch + 1, head : head + 1] for x in (q, k, v, grad)]
        wide = [x.float().requires_grad_() for x in part[:3]]
        exact_out = naive_attention(*wide, causal=causal)
        exact = [exact_out, *torch.autograd.grad(exact_out, wide, part[3].float())]
        # Ours on all heads, so that what is timed is what was checked.
        out = flash_attention(q, k, v, causal=causal)
        found = [out, *torch.autograd.grad(out, (q, k, v), grad)]
        for mine, truth in zip(found, exact, strict=True):
            difference = mine[batch, head].float() - truth[0, 0]
            error = (difference.norm() / truth.norm()).item()
            worst = max(worst, error if error == error else float("inf"))
    return worst


def _decode_record(keys: int, copy_gbps: float) -> dict[str, Any]:
    batch, heads, key_heads, width = 4, 32, 8, 128
    q = torch.randn(batch, heads, width, device="cuda", dtype=torch.bfloat16)
    shape = (batch, key_heads, keys, width)
    k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    exact = naive_attention(q.float()[:, :, None], k.float(), v.float())[:, :, 0]
    error = ((flash_decode(q, k, v).float() - exact).norm() / exact.norm()).item()
    record = {"keys": keys, "B": batch, "H": heads, "G": key_heads, "D": width}
    record |= {"relative_error": error, "passed": False}
    if error <= TOLERANCE:
        ours_ms = interleaved_ms({"ours": lambda: flash_decode(q, k, v)})["ours"]
        gbps = (k.nbytes + v.nbytes) / ours_ms / 1e6
        share = gbps / copy_gbps
        record |= {"times_ms": {"ours": ours_ms}, "gbps": gbps, "share_of_copy": share}
        record |= {"bar": COPY_BAR, "passed": share >= COPY_BAR}
    print(record, flush=True)
    return record


def _sdpa(peer: str, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    with sdpa_kernel(PEERS[peer]):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


def _or_none(run: Run) -> Any:
    """None where PyTorch has no such kernel for this machine."""
    try:
        return run()
    except RuntimeError as error:
        print(f"left out: {error}", flush=True)
        return None
