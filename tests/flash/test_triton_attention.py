"""The Triton kernels: in the interpreter at small sizes, on a GPU in all dtypes."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch

from tests.flash.triton_cases import Problem, assert_right, strided

pytest.importorskip("triton")

from companion.flash.masks import Window
from companion.flash.triton import launch as triton_attention
from companion.flash.triton import tuning
from companion.flash.triton.launch import triton_backward, triton_forward

INTERPRETED = pytest.mark.skipif(
    not triton_attention.is_interpreted(), reason="the kernels are compiled for a GPU here"
)
TARGETS = [
    pytest.param("cpu", torch.float32, marks=INTERPRETED),
    pytest.param("cpu", torch.float16, marks=INTERPRETED),
    *[
        pytest.param("cuda", dtype, marks=pytest.mark.gpu)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ],
]
on_targets = pytest.mark.parametrize(("device", "dtype"), [TARGETS[0], *TARGETS[2:]])
on_float32 = pytest.mark.parametrize(("device", "dtype"), [TARGETS[0], TARGETS[2]])

PROBLEMS = [
    Problem(H=2, G=2, T=1, S=1),
    Problem(B=2, H=2, G=2, T=3, S=3, D=40, causal=True),
    Problem(H=2, G=1, T=17, S=33, D=59, causal=True),
    Problem(H=4, G=2, T=33, S=17, D=40, causal=True),  # 16 queries see no key
    Problem(H=3, G=1, T=33, S=33, D=64),
    Problem(H=2, G=1, T=1, S=113, D=64, causal=True),
    Problem(T=113, S=113, D=40, causal=True, window=20),
    Problem(T=70, S=113, window=(9, 30)),
    Problem(T=113, S=33, D=16, window=(4, None)),
    Problem(T=33, S=70, D=16, window=(None, 3)),
    Problem(T=70, S=3, D=16, window=(2, 1)),  # most queries see no key
]
LARGE = [
    Problem(B=2, H=6, G=2, T=257, S=257, D=64, causal=True),
    Problem(B=2, H=4, G=4, T=1023, S=1023, D=128, causal=True),
    Problem(H=4, G=1, T=1023, S=257, D=80, window=(100, 50)),
    Problem(H=4, G=2, T=257, S=1023, D=256, causal=True, window=300),
    Problem(B=3, H=2, G=2, T=1023, S=1023, D=40),
]


def ours(problem, q, k, v, grad_out, grad_lse):
    setting = {"window": problem.resolved, "scale": problem.scale}
    out, lse = triton_forward(q, k, v, **setting)
    return [out, lse, *triton_backward(grad_out, grad_lse, q, k, v, out, lse, **setting)]


def check(problem, dtype, device, *, arrange=lambda x: x):
    inputs = problem.inputs(dtype, device)
    q, k, v, grad_out, grad_lse = inputs
    rearranged = [arrange(x) for x in (q, k, v, grad_out, grad_lse[..., None])]
    found = ours(problem, *rearranged[:4], rearranged[4][..., 0])
    assert [x.dtype for x in found] == [dtype, torch.float32, dtype, dtype, dtype]
    assert_right(problem, found, inputs)
    return found


# What they compute


@on_targets
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_is_attention_with_all_its_gradients(problem, device, dtype):
    check(problem, dtype, device)


@INTERPRETED
@pytest.mark.parametrize("problem", [PROBLEMS[2], PROBLEMS[3], PROBLEMS[9]], ids=str)
def test_is_attention_in_float16(problem):
    check(problem, torch.float16, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_is_attention_at_full_tiles(problem, dtype):
    check(problem, dtype, "cuda")


@INTERPRETED
@pytest.mark.parametrize("tile", [(16, 16), (16, 64), (32, 16)])
def test_any_tile_gives_attention(tile, monkeypatch):
    monkeypatch.setattr(tuning, "INTERPRETER", tuning.Tile(*tile, 1, 1))
    problem = Problem(T=34, S=45, D=24, window=(20, 7))
    check(problem, torch.float32, "cpu")


@on_float32
def test_two_scores_by_hand(device, dtype):
    q = torch.zeros(1, 1, 1, 16, device=device, dtype=dtype)
    k, v = torch.zeros(2, 1, 1, 2, 16, device=device, dtype=dtype)
    q[..., 0] = 1.0
    k[..., 1, 0] = math.log(3)  # weights 1/4 and 3/4
    v[..., 1, 5] = 8.0
    out, lse = triton_forward(q, k, v, window=Window(), scale=1.0)
    assert out[0, 0, 0, 5].item() == pytest.approx(6.0)
    assert out.count_nonzero() == 1
    assert lse.item() == pytest.approx(math.log(4))


@on_float32
def test_rows_that_see_no_key(device, dtype):
    problem = Problem(H=2, G=1, T=7, S=3, causal=True)
    out, lse, dq, dk, dv = ours(problem, *problem.inputs(dtype, device))
    assert not out[:, :, :4].any()
    assert (lse[:, :, :4] == -math.inf).all()
    assert lse[:, :, 4:].isfinite().all()
    assert not dq[:, :, :4].any()
    assert all(x.isfinite().all() for x in (dq, dk, dv))


@on_float32
@pytest.mark.parametrize("scale", [0.0, -0.7, 40.0])
def test_any_scale(scale, device, dtype):
    q, k, v, *_ = Problem(T=5, S=37).inputs(dtype, device)
    out, lse = triton_forward(q, k, v, window=Window(), scale=scale)
    scores = scale * q.double() @ k.double().mT
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ v.double(), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), atol=1e-4, rtol=1e-6)


@on_float32
def test_very_negative_scores_are_still_seen(device, dtype):
    """A finite stand-in for −∞, as −1e6, would hide rows whose scores lie below it."""
    q, k, v, *_ = Problem(T=5, S=37).inputs(dtype, device)
    q[..., 0], k[..., 0] = 1e4, -1e4
    out, lse = triton_forward(q, k, v, window=Window(right=0), scale=1.0)
    q64, k64, v64 = (x.double() for x in (q, k, v))
    hidden = torch.ones(5, 37, device=device).triu(33).bool()
    exact = (q64 @ k64.mT).masked_fill(hidden, -math.inf)
    assert (lse < -9e7).all()
    # Scores of 1e8 are 8 apart in float32, so only what is not lost to that can be compared.
    torch.testing.assert_close(lse.double(), exact.logsumexp(-1), atol=40.0, rtol=0)
    assert (out.norm(dim=-1) > 0.1).all()
    assert (out.abs() <= v64.abs().amax(dim=2, keepdim=True) + 1e-3).all()


@on_float32
def test_window_past_every_key(device, dtype):
    problem = Problem(T=9, S=21, window=2**40)
    check(problem, dtype, device)


# Memory: strides, poison, offsets


@on_targets
def test_any_strides(device, dtype):
    problem = Problem(B=2, H=2, G=1, T=19, S=35, D=24, causal=True)
    x = problem.inputs(dtype, device)[0]
    assert strided(x).stride(-1) != 1
    assert torch.equal(strided(x), x)
    check(problem, dtype, device, arrange=strided)


@on_float32
def test_strides_of_every_tensor_may_differ(device, dtype):
    problem = Problem(B=2, H=2, G=2, T=19, S=19, D=24, causal=True)
    orders = iter([(0, 1, 2, 3), (2, 0, 1, 3), (1, 0, 2, 3), (0, 2, 1, 3), (2, 1, 0, 3)])

    def arrange(x):
        order = next(orders)
        back = [order.index(axis) for axis in range(4)]
        return x.permute(order).contiguous().permute(back)

    check(problem, dtype, device, arrange=arrange)


@on_float32
def test_broadcast_gradient(device, dtype):
    """`out.sum().backward()` sends a gradient whose strides are all 0."""
    problem = Problem(H=2, G=1, T=19, S=19, D=24)
    q, k, v, _, grad_lse = problem.inputs(dtype, device)
    ones = torch.ones((), dtype=dtype, device=device).expand(q.shape)
    assert_right(problem, ours(problem, q, k, v, ones, grad_lse), [q, k, v, ones, grad_lse])


@pytest.fixture
def poison():
    """Fresh memory holds NaN, so that what no kernel wrote shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@on_float32
@pytest.mark.parametrize("problem", [PROBLEMS[3], PROBLEMS[10]], ids=str)
def test_every_element_is_written(problem, device, dtype, poison):
    found = ours(problem, *problem.inputs(dtype, device))
    assert not any(x.isnan().any() for x in found)


@on_targets
def test_gradients_are_the_same_bits_twice(device, dtype):
    problem = Problem(H=2, G=1, T=70, S=70, D=16, causal=True)
    inputs = problem.inputs(dtype, device)
    first, second = ours(problem, *inputs), ours(problem, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("device", "dtype"), [TARGETS[1], TARGETS[3]])
@pytest.mark.parametrize("axis", ["batch", "head", "row", "column"])
def test_offsets_past_2_to_the_31(axis, device, dtype, monkeypatch):
    """The ends of one axis lie 2³¹ elements apart; the pages between are never touched.

    The stride itself stays below 2³¹: only its product with an index passes it. A kernel that
    multiplies in 32 bits reads an address that is not ours, and the whole run ends there.
    """
    axis, shape = ["batch", "head", "row", "column"].index(axis), [3, 3, 3, 16]
    strides = [144, 48, 16, 1]
    strides[axis] = 2**31 // (shape[axis] - 1) + 8
    monkeypatch.setattr(  # the interpreter would copy the whole storage onto itself
        "triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *_: None
    )
    problem = Problem(B=3, H=3, G=3, T=3, S=3)
    *tensors, grad_lse = problem.inputs(dtype, device)
    try:
        room = torch.empty(2**31 + 8192, dtype=dtype, device=device)
    except RuntimeError as error:
        pytest.skip(f"4 GiB of address space are not to be had: {error}")
    far = [room[1024 * i :].as_strided(x.shape, strides) for i, x in enumerate(tensors)]
    for view, x in zip(far, tensors, strict=True):
        view.copy_(x)
    found, expected = ours(problem, *far, grad_lse), ours(problem, *tensors, grad_lse)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_empty_batch():
    q = torch.empty(0, 2, 3, 16)
    if not triton_attention.is_interpreted():
        q = q.cuda()
    problem = Problem(B=0, H=2, G=2, T=3, S=3)
    found = ours(problem, q, q, q, q, q[..., 0])
    assert [x.shape for x in found] == [q.shape, q.shape[:3], *[q.shape] * 3]


@pytest.mark.parametrize(("index", "entered"), [(0, []), (1, [1])])
def test_a_launch_enters_the_device_of_its_tensors_unless_it_is_the_current_one(
    monkeypatch, index, entered
):
    seen, runs = [], []

    @contextlib.contextmanager
    def device(chosen):
        seen.append(chosen.index)
        yield

    def kernel(*arguments, **settings):
        runs.append((list(seen), arguments, settings))

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", device)
    like = SimpleNamespace(device=torch.device("cuda", index))
    triton_attention._launch({(7,): kernel}, 7, like, "q", BLOCK_M=16)
    assert runs == [(entered, ("q",), {"BLOCK_M": 16})]


# Errors


def test_float64_is_refused():
    q = torch.zeros(1, 1, 2, 16, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"float16, bfloat16 and float32, got torch\.float64"):
        triton_forward(q, q, q, window=Window(), scale=1.0)


@INTERPRETED
def test_bfloat16_is_refused_by_the_interpreter():
    q = torch.zeros(1, 1, 2, 16, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match="expected float16 or float32 under TRITON_INTERPRET=1"):
        triton_forward(q, q, q, window=Window(), scale=1.0)


def test_cpu_tensors_need_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton_attention, "is_interpreted", lambda: False)
    q = torch.zeros(1, 1, 2, 16)
    with pytest.raises(RuntimeError, match="needs CUDA tensors, got tensors on cpu; set TRITON_IN"):
        triton_forward(q, q, q, window=Window(), scale=1.0)
