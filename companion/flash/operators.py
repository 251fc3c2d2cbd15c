"""One attention, known to eager autograd, to ``torch.func`` and to ``torch.compile``.

PyTorch has two ways to register a forward and a backward pass, and neither covers everything: an
``autograd.Function`` with ``setup_context`` works under ``torch.func``, but the compiler does not
trace one that also defines ``vmap`` and ``jvp``; a ``torch.library`` operator is made for the
compiler, but ``torch.func.grad`` refuses its autograd. So both are registered here, over the same
functions.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.library import custom_op

from companion.flash.checks import wide_dtype

__all__ = ["attention_function", "attention_operator"]

NO_SECOND_DERIVATIVE = (
    "attention has no second derivative here: its backward pass recomputes the weights tile by "
    "tile and keeps no graph; use naive_attention or attention_backend('naive')"
)
NO_FORWARD_MODE = (
    "attention has no forward-mode derivative (jvp) here; use reverse mode, naive_attention or "
    "attention_backend('naive')"
)


def attention_operator(
    name: str, forward: Callable, backward: Callable, *, fold_dim: int
) -> Callable[..., tuple[Tensor, Tensor]]:
    """A differentiable function from a forward and a backward pass.

    Args:
        name: The operators are ``companion::<name>`` and ``companion::<name>_backward``.
        forward: (*tensors, left, right, scale, backend) → (out, lse), where the first three
            tensors are q, k and v, and the others are vectors of integers.
        backward: (grad_out, grad_lse, *tensors, out, lse, left, right, scale, backend)
            → (dq, dk, dv); grad_lse may be None.
        fold_dim: The dimension of q, k and v that ``vmap``'s own can be folded into. Heads and
            batches are both independent, so either will do.

    Returns:
        A function with the arguments of ``forward``.
    """
    forward_op = custom_op(f"companion::{name}", forward, mutates_args=())
    backward_op = custom_op(f"companion::{name}_backward", backward, mutates_args=())
    forward_op.register_fake(_fake_forward)
    backward_op.register_fake(_fake_backward)
    forward_op.register_autograd(_gradients(backward_op), setup_context=_save)
    backward_op.register_autograd(_refuse_second_derivative)
    forward_op.register_vmap(_folding(forward_op, fold_dim))
    backward_op.register_vmap(_folding(backward_op, fold_dim))
    function, second = _functions(name, forward, backward, fold_dim)
    plain = _plain_function(name, forward, backward, second)

    def call(*args: Any) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_compiling():
            return forward_op(*args)
        # What torch.func and forward mode need costs a call more than a small attention takes.
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return function.apply(*args)
        q, k, v, *_ = args
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            return plain.apply(*args)
        return forward(*args)

    return call


def attention_function(
    name: str, forward: Callable, backward: Callable, *, fold_dim: int
) -> type[Function]:
    """The forward pass as a Function whose backward pass is a Function too.

    Were the second a plain call, a second derivative would be silently wrong, not refused.

    Args:
        name: The Functions are called as this.
        forward, backward, fold_dim: As in ``attention_operator``, but with settings of any number
            and kind after the tensors.
    """
    return _functions(name, forward, backward, fold_dim)[0]


def _functions(
    name: str, forward: Callable, backward: Callable, fold_dim: int
) -> tuple[type[Function], type[Function]]:
    title = name.title().replace("_", "")
    backward_members = {"forward": backward, "setup_context": _save_nothing}
    backward_members |= {"backward": _refuse_second_derivative, "jvp": _refuse_forward_mode}
    backward_members["vmap"] = _folding(lambda *args: second.apply(*args), fold_dim)
    second = _function(f"{title}Backward", backward_members)
    forward_members = {"forward": forward, "setup_context": _save}
    forward_members |= {"backward": _gradients(second.apply), "jvp": _refuse_forward_mode}
    forward_members["vmap"] = _folding(lambda *args: first.apply(*args), fold_dim)
    first = _function(title, forward_members)
    return first, second


def _plain_function(
    name: str, forward: Callable, backward: Callable, second: type[Function]
) -> type[Function]:
    """The same for eager autograd alone; the backward pass is a Function only if it is recorded."""

    def run(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        output = forward(*args)
        _save(ctx, args, output)
        return output

    def run_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return second.apply(*args) if torch.is_grad_enabled() else backward(*args)

    members = {"forward": run, "backward": _gradients(run_backward)}
    title = name.title().replace("_", "") + "Plain"
    return type(title, (Function,), {key: staticmethod(value) for key, value in members.items()})


def _function(name: str, members: dict[str, Callable]) -> type[Function]:
    # ``apply`` asks for it at every call; kept here, a call of one token is a quarter quicker.
    members["forward"].__signature__ = inspect.signature(members["forward"])
    return type(name, (Function,), {key: staticmethod(value) for key, value in members.items()})


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)), *output)
    # The back end is among them: backward may run after the context that chose it has closed.
    ctx.settings = tuple(x for x in inputs if not isinstance(x, Tensor))
    # The log-sum-exp is seldom used; a gradient of zeros for it would be read for nothing.
    ctx.set_materialize_grads(False)


def _save_nothing(ctx: Any, inputs: tuple, output: tuple) -> None:
    pass


def _gradients(backward: Callable) -> Callable:
    def gradients(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple:
        *tensors, out, lse = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        dq_dk_dv = backward(grad_out, grad_lse, *tensors, out, lse, *ctx.settings)
        return *dq_dk_dv, *[None] * (len(tensors) - 3 + len(ctx.settings))

    return gradients


def _refuse_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(NO_SECOND_DERIVATIVE)


def _refuse_forward_mode(ctx: Any, *tangents: Any) -> None:
    raise NotImplementedError(NO_FORWARD_MODE)


def _folding(call: Callable, fold_dim: int) -> Callable:
    """The rule of ``vmap``: fold its dimension into one that is independent anyway, and call once.

    out and the gradients have as many dimensions as q; lse has one less, and its first is the one
    that q's ``fold_dim`` becomes, both for "B H T" and, packed, for "H N".
    """

    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        ranks = [
            x.ndim - (dim is not None) if isinstance(x, Tensor) else 0
            for x, dim in zip(args, in_dims, strict=True)
        ]
        places = [fold_dim if rank == max(ranks) else 0 for rank in ranks]
        folded = [
            _folded(x, dim, place, info.batch_size) if rank > 1 else _unmapped(x, dim)
            for x, dim, place, rank in zip(args, in_dims, places, ranks, strict=True)
        ]
        results = call(*folded)
        out_dims = tuple(fold_dim if x.ndim == max(ranks) else 0 for x in results)
        unfolded = (
            x.unflatten(place, (info.batch_size, x.shape[place] // info.batch_size))
            for x, place in zip(results, out_dims, strict=True)
        )
        return tuple(unfolded), out_dims

    return rule


def _folded(x: Tensor, dim: int | None, place: int, size: int) -> Tensor:
    if dim is None:
        x = x.unsqueeze(place).expand(*x.shape[:place], size, *x.shape[place:])
    else:
        x = x.movedim(dim, place)
    return x.flatten(place, place + 1)


def _unmapped(x: Any, dim: int | None) -> Any:
    if dim is not None:
        raise ValueError("vmap: offsets must be the same for every call, got a batch of them")
    return x


def _fake_forward(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    # "B H T D" gives "B H T"; packed, "N H D" gives "H N".
    shape = q.shape[:-1] if q.ndim == 4 else (q.shape[1], q.shape[0])
    return q.new_empty(q.shape), q.new_empty(shape, dtype=wide_dtype(q.dtype))


def _fake_backward(
    grad_out: Tensor, grad_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
