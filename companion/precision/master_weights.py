"""Master weights: a model in 16 bits whose optimizer works on copies in 32.

    w16 = round(w32);   g16 = gradient at w16;   g32 = g16 (/ s);   w32 ← w32 − η·update(g32)

A step of η·g that is less than half a unit in the last place of w rounds away in 16 bits, every
time. In 32 bits such steps add up until they move w16.

Source: Micikevicius et al. 2018, arXiv:1710.03740, §3.1.
Chapter: course/08_precision.ipynb.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from companion.checks import typed

__all__ = ["MasterWeights"]


class MasterWeights(Optimizer):
    """An optimizer over 32-bit copies of a model's 16-bit parameters.

    ``param_groups``, ``state`` and gradients after ``collect_gradients`` are those of the copies,
    so schedulers, clipping (of ``masters``) and ``torch.amp.GradScaler`` work on 32 bits.
    Parameters that already have 32 bits or more are their own masters.

    Each step: backward, then ``step``. ``LossScaler`` collects by itself; with GradScaler, or to
    add up the gradients of several backwards in 32 bits, call ``collect_gradients`` after backward.
    A step that GradScaler skips leaves what was collected: call this object's ``zero_grad``, not
    only the model's.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, §3.1.

    Args:
        optimizer_class: Any that steps without a closure: SGD, Adam, AdamW …
        parameters: Parameters or parameter groups, as for any optimizer, floating point.
        **options: Of the optimizer: ``lr``, ``betas`` …

    Raises:
        TypeError: A parameter is not floating point.
        ValueError: As the optimizer.

    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0], dtype=torch.bfloat16))
        >>> optimizer = MasterWeights(torch.optim.SGD, [weight], lr=0.001)
        >>> for _ in range(4):  # in 16 bits, 1 − 0.001 is 1 again
        ...     weight.sum().backward()
        ...     optimizer.step()
        >>> weight.item(), round(optimizer.masters[0].item(), 6)
        (0.99609375, 0.996)
    """

    @typed
    def __init__(
        self,
        optimizer_class: type[Optimizer],
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        **options: Any,
    ) -> None:
        self._made = False
        self._parameters: list[list[Tensor]] = []  # of the model, in the order of the groups
        groups = []
        for group in optimizer_class(parameters, **options).param_groups:
            self._parameters.append(list(group["params"]))
            groups.append({**group, "params": [_master(p) for p in group["params"]]})
        self._optimizer = optimizer_class(groups, **options)
        super().__init__(self._optimizer.param_groups, self._optimizer.defaults)
        self._made = True
        self._share()

    @property
    def masters(self) -> list[Tensor]:
        """The 32-bit copies, in the order of the parameters."""
        return [master for group in self.param_groups for master in group["params"]]

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add the model's gradients to those of the masters, in 32 bits, and free them."""
        for parameter, master in self._pairs():
            if parameter.grad is None or parameter is master:
                continue
            gradient = parameter.grad.to(master.dtype)
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Collect, update the masters, and round them into the model; free the collected gradients.

        Raises:
            TypeError: There is a closure: it would compute at weights that are not the masters.
        """
        if closure is not None:
            raise TypeError("expected step() without a closure, got one")
        self.collect_gradients()
        self._optimizer.step()
        self._round_into_model()
        self.drop_collected()

    def drop_collected(self) -> None:
        """Free the gradients that were collected, as ``step`` does; after a skipped one, say."""
        for parameter, master in self._pairs():
            if parameter is not master:
                master.grad = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while the optimizer is made: a later group would have no masters.

        Raises:
            RuntimeError: It is made already.
        """
        if self._made:
            raise RuntimeError("expected all parameter groups at the start, got another one later")
        super().add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the model, and those that were collected."""
        self._optimizer.zero_grad(set_to_none)
        for parameter, _ in self._pairs():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else torch.zeros_like(parameter)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and under "masters" what the 16 bits of the model do not hold."""
        masters = [master.detach().clone() for master in self.masters]
        return {**self._optimizer.state_dict(), "masters": masters}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state, and round its masters into the model.

        Raises:
            ValueError: The state has other groups, or masters of other shapes.
        """
        state = dict(state_dict)
        saved = state.pop("masters", None)
        shapes = [tuple(master.shape) for master in self.masters]
        if saved is None or [tuple(master.shape) for master in saved] != shapes:
            got = None if saved is None else [tuple(master.shape) for master in saved]
            raise ValueError(f"masters: expected tensors of shapes {shapes}, got {got}")
        self._optimizer.load_state_dict(state)
        self._share()
        for master, value in zip(self.masters, saved, strict=True):
            master.copy_(value)
        self._round_into_model()

    def _share(self) -> None:
        """One list of groups and one state for both, which schedulers change and read here."""
        self.param_groups, self.state = self._optimizer.param_groups, self._optimizer.state

    def _pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        for parameters, group in zip(self._parameters, self.param_groups, strict=True):
            yield from zip(parameters, group["params"], strict=True)

    def _round_into_model(self) -> None:
        for parameter, master in self._pairs():
            if parameter is not master:
                parameter.copy_(master)


def _master(parameter: Tensor) -> Tensor:
    if not parameter.is_floating_point():
        raise TypeError(f"expected floating-point parameters, got {parameter.dtype}")
    if torch.finfo(parameter.dtype).bits >= 32:
        return parameter
    return nn.Parameter(parameter.detach().float(), requires_grad=parameter.requires_grad)
