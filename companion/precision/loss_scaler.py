"""Loss scaling: gradients that would vanish in 16 bits are moved up before, and back after.

    backward of s·loss  →  every gradient times s      (the chain rule carries it)
    unscale: gradients / s in 32 bits  →  clip  →  step, unless one of them is infinite or NaN

s follows the run: halved when a gradient overflowed (the step is skipped), doubled after 2000 steps
without overflow. It settles where about one step in 2000 is lost.

Source: Micikevicius et al. 2018, arXiv:1710.03740, §3.2; the rule is that of PyTorch's GradScaler.
Chapter: course/08_precision.ipynb.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from companion.checks import check_count, check_number, typed
from companion.precision.master_weights import MasterWeights

__all__ = ["LossScaler"]


class LossScaler:
    """Scales a loss, unscales gradients, and skips steps that overflowed.

    Each step: ``scale(loss).backward()``, for each optimizer ``unscale_`` (then clip, if you do)
    and ``step``, at the end one ``update``. ``step`` unscales where you have not. Over the same
    steps the scale is that of ``torch.amp.GradScaler``, whose state files it reads and writes;
    differences: it stays within bounds, ``step`` says whether it stepped, and the ranks of a
    process group always agree.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, §3.2.

    Args:
        init_scale: s at the start.
        growth: Factor after ``growth_interval`` steps in a row without overflow, more than 1.
        backoff: Factor after an overflow, in (0, 1).
        growth_interval: Steps, at least 1.
        minimum: s does not fall below it.
        maximum: s does not grow above it; None is no limit but that of float32.
        static: Keep s as it is; steps that overflow are skipped all the same.
        group: The ranks that must agree on an overflow, so that none steps alone; every one of
            them calls ``unscale_`` or ``step`` for the same optimizers in the same order. None is
            the default group, if there is one.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor(1.0))
        >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.5), LossScaler(init_scale=4.0)
        >>> scaler.scale(weight**2).backward()
        >>> weight.grad  # 4 · 2w
        tensor(8.)
        >>> stepped = scaler.step(optimizer)
        >>> scaler.update()
        >>> stepped, weight.item(), scaler.value
        (True, 0.0, 4.0)
    """

    @typed
    def __init__(
        self,
        *,
        init_scale: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        growth_interval: int = 2000,
        minimum: float = 1.0,
        maximum: float | None = 2.0**24,
        static: bool = False,
        group: ProcessGroup | None = None,
    ) -> None:
        largest = torch.finfo(torch.float32).max
        maximum = largest if maximum is None else maximum
        check_number("minimum", minimum, above=0, most=largest)
        check_number("maximum", maximum, least=minimum, most=largest)
        check_number("init_scale", init_scale, least=minimum, most=maximum)
        self._minimum, self._maximum = _float32(minimum), _float32(maximum)
        check_number("growth", growth, above=1)
        check_number("backoff", backoff, above=0)
        if backoff >= 1:
            raise ValueError(f"backoff must be less than 1, got {backoff}")
        check_count("growth_interval", growth_interval)
        self._growth, self._backoff, self._interval = growth, backoff, growth_interval
        self._static, self._group = static, group
        self._scale = _float32(init_scale)
        self._good_steps = 0
        self._overflowed: dict[int, bool] = {}  # of unscaled optimizers, until update()
        self._stepped: set[int] = set()

    @property
    def value(self) -> float:
        """The scale s."""
        return self._scale

    def scale(self, loss: Tensor) -> Tensor:
        """s times the loss, of any shape and on any device."""
        return loss * self._scale

    @torch.no_grad()
    def unscale_(self, optimizer: Optimizer) -> bool:
        """Divide an optimizer's gradients by s, in place, before they are looked at or clipped.

        Args:
            optimizer: Its gradients must have 32 bits or more: a small one would vanish in 16 as
                soon as it is divided. ``MasterWeights`` takes 16-bit gradients over to 32 first.

        Returns:
            Whether all of them are finite, on all ranks.

        Raises:
            RuntimeError: The optimizer has been unscaled or has stepped since the last ``update``.
            ValueError: A gradient has 16 bits.
        """
        if id(optimizer) in self._overflowed:
            done = "stepped" if id(optimizer) in self._stepped else "been unscaled"
            raise RuntimeError(
                f"expected unscale_ once for each update, got an optimizer that has already {done}"
            )
        if isinstance(optimizer, MasterWeights):
            optimizer.collect_gradients()
        self._overflowed[id(optimizer)] = self._unscale_and_check(_gradients(optimizer))
        return not self._overflowed[id(optimizer)]

    def step(self, optimizer: Optimizer) -> bool:
        """Let the optimizer step, unless a gradient overflowed; unscale first where it is due.

        Returns:
            Whether it stepped.

        Raises:
            RuntimeError: It has stepped since the last ``update``.
            ValueError: As ``unscale_``.
        """
        if id(optimizer) in self._stepped:
            raise RuntimeError("expected one step for each update, got a second one")
        if id(optimizer) not in self._overflowed:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        if self._overflowed[id(optimizer)]:
            if isinstance(optimizer, MasterWeights):
                optimizer.drop_collected()  # the model's zero_grad would not reach them
            return False
        optimizer.step()
        return True

    def update(self) -> None:
        """Choose the next s, once for each step, after all optimizers.

        Raises:
            RuntimeError: No optimizer has been unscaled or has stepped since the last ``update``.
        """
        if not self._overflowed:
            raise RuntimeError(
                "expected unscale_ or step before update, which needs to know of overflows"
            )
        overflowed = any(self._overflowed.values())
        self._overflowed.clear()
        self._stepped.clear()
        if self._static:
            return
        if overflowed:
            self._scale = max(_float32(self._scale * self._backoff), self._minimum)
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == self._interval:
            self._good_steps = 0
            if self._scale * self._growth <= self._maximum:
                self._scale = _float32(self._scale * self._growth)

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on, under the names of ``torch.amp.GradScaler``."""
        return {
            "scale": self._scale,
            "growth_factor": self._growth,
            "backoff_factor": self._backoff,
            "growth_interval": self._interval,
            "_growth_tracker": self._good_steps,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state of ``LossScaler`` or of ``torch.amp.GradScaler``.

        Raises:
            ValueError: It is no such state, or a number in it is out of its range; the scale's is
                that of this scaler's bounds.
        """
        expected = self.state_dict().keys()
        if state_dict.keys() != expected:
            raise ValueError(f"expected the keys {sorted(expected)}, got {sorted(state_dict)}")
        scale = state_dict["scale"]
        check_number("scale", scale, least=self._minimum, most=self._maximum)
        check_number("growth_factor", state_dict["growth_factor"], above=1)
        check_number("backoff_factor", state_dict["backoff_factor"], above=0, most=1)
        check_count("growth_interval", state_dict["growth_interval"])
        check_count("_growth_tracker", state_dict["_growth_tracker"], least=0)
        self._scale, self._good_steps = float(scale), int(state_dict["_growth_tracker"])
        self._growth = state_dict["growth_factor"]
        self._backoff = state_dict["backoff_factor"]
        self._interval = state_dict["growth_interval"]
        self._overflowed.clear()
        self._stepped.clear()

    def _unscale_and_check(self, gradients: list[Tensor]) -> bool:
        """Unscale, and say whether any rank found an infinity or a NaN."""
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for gradient in gradients:
            kinds.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        # A GPU's answer stays there until all gradients have been looked at.
        found: dict[torch.device, Tensor] = {}
        for (device, _), alike in kinds.items():
            flag = found.setdefault(device, torch.zeros(1, device=device))
            inverse = torch.full((1,), 1 / self._scale, device=device)
            torch._amp_foreach_non_finite_check_and_unscale_(alike, flag, inverse)
        overflowed = any(flag.item() for flag in found.values())
        if distributed.is_available() and distributed.is_initialized():
            overflowed = self._on_any_rank(overflowed, found)
        return overflowed

    def _on_any_rank(self, overflowed: bool, found: Mapping[torch.device, Tensor]) -> bool:
        device = next(iter(found), torch.device("cpu"))
        if distributed.get_backend(self._group) == "nccl" and device.type == "cpu":
            device = torch.device("cuda", torch.cuda.current_device())
        flag = torch.tensor([float(overflowed)], device=device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self._group)
        return bool(flag.item())


def _float32(value: float) -> float:
    """Rounded as GradScaler's scale is, which lives in a float32 tensor."""
    return torch.tensor(value, dtype=torch.float32).item()


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    """All that an optimizer has; of a sparse one the values."""
    gradients = []
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            parameter.grad = gradient = gradient.coalesce()  # duplicates add up, and may overflow
            gradient = gradient._values()
        if torch.finfo(gradient.dtype).bits < 32:
            raise ValueError(
                f"expected gradients of 32 bits or more, got {gradient.dtype}: divided by the "
                "scale they would vanish again; let MasterWeights hold 32-bit copies"
            )
        gradients.append(gradient)
    return gradients
