"""Exact transport against POT, scipy and closed forms; every plan comes with its certificate."""

from fractions import Fraction
from itertools import pairwise, permutations

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from companion.wasserstein import (
    Transport,
    c_transform,
    exact_transport,
    solve_dual,
    solve_primal,
)
from companion.wasserstein.exact import _slack
from tests.wasserstein.instances import generator, points, problem, weights


def assert_certified(a, b, cost, result: Transport, tolerance: float = 1e-12) -> None:
    """Marginals, dual feasibility, no gap, complementary slackness: together, optimality."""
    scale = cost.abs().max().clamp_min(1e-300)
    assert result.plan.min() >= 0
    assert_close(result.plan.sum(1), a, atol=0, rtol=tolerance)
    assert_close(result.plan.sum(0), b, atol=0, rtol=tolerance)
    slack = (cost - result.f[:, None] - result.g) / scale
    assert slack.min() > -1e-12
    assert abs(result.cost - a @ result.f - b @ result.g) < tolerance * scale
    assert (slack * result.plan).max() < tolerance
    assert result.f[0] == 0


@pytest.mark.parametrize("zeros", [0, 2])
@pytest.mark.parametrize(("n", "m"), [(3, 4), (5, 3), (13, 17), (60, 45)])
def test_value_is_pots(n, m, zeros):
    a, b, cost = problem(n, m, seed=n, zeros=zeros)
    result = exact_transport(a, b, cost)
    assert_certified(a, b, cost, result)
    assert abs(result.cost - ot.emd2(a.numpy(), b.numpy(), cost.numpy())) < 1e-12


def test_value_is_the_two_linear_programs():
    a, b, cost = problem(11, 7)
    result = exact_transport(a, b, cost)
    f, g = solve_dual(a, b, cost)
    assert abs(result.cost - (solve_primal(a, b, cost) * cost).sum()) < 1e-12
    assert abs(result.cost - a @ f - b @ g) < 1e-12


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_one_point_sends_everything(shape):
    a, b = weights(shape[0], seed=0), weights(shape[1], seed=1)
    cost = points(*shape, seed=2)
    result = exact_transport(a, b, cost)
    assert_certified(a, b, cost, result)
    assert_close(result.plan, a[:, None] * b)


def test_uniform_weights_are_an_assignment():
    cost = points(30, 30, seed=1)  # of any sign
    uniform = torch.full((30,), 1 / 30, dtype=torch.float64)
    rows, columns = linear_sum_assignment(cost.numpy())
    result = exact_transport(uniform, uniform, cost)
    assert_certified(uniform, uniform, cost, result)
    assert_close(result.plan[rows, columns], uniform)


@pytest.mark.parametrize("zeros", [1, 5])
def test_potentials_are_feasible_where_weights_are_zero(zeros):
    a, b, cost = problem(9, 8, seed=6, zeros=zeros)
    result = exact_transport(a, b, cost)
    assert_certified(a, b, cost, result)
    assert (result.plan[:zeros] == 0).all()
    # And as large as can be: each is tight somewhere.
    assert_close((cost - result.f[:, None] - result.g).amin(1), torch.zeros(9).double())


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_of_cost_and_mass_do_not_matter(scale):
    a, b, cost = problem(13, 11, seed=2)
    result = exact_transport(a, b, cost * scale)
    assert_certified(a, b, cost * scale, result)
    expected = ot.emd2(a.numpy(), b.numpy(), cost.numpy())
    assert abs(result.cost / scale - expected) < 1e-12
    heavy = exact_transport(a * scale, b * scale, cost)
    assert abs(heavy.cost / scale - expected) < 1e-12


def test_ties_everywhere():
    a, b = weights(40, seed=0), weights(30, seed=1)
    for cost in (torch.ones(40, 30).double(), torch.zeros(40, 30).double()):
        assert_certified(a, b, cost, exact_transport(a, b, cost))
    grid = torch.arange(40.0).double()
    cost = (grid[:, None] - grid[:30]).abs()  # integer costs: many optimal plans
    result = exact_transport(a, b, cost)
    assert_certified(a, b, cost, result)
    steps = torch.zeros(40).double()
    steps[:30] = b
    assert abs(result.cost - (a - steps).cumsum(0).abs().sum()) < 1e-12


def test_many_points():
    generator_ = generator(0)
    a = torch.rand(300, generator=generator_).double()
    b = torch.rand(200, generator=generator_).double() ** 4  # uneven
    cost = torch.rand(300, 200, generator=generator_).double()
    a, b = a / a.sum(), b / b.sum()
    result = exact_transport(a, b, cost)
    assert_certified(a, b, cost, result)
    assert abs(result.cost - ot.emd2(a.numpy(), b.numpy(), cost.numpy())) < 1e-12


# Numbers of very different size


def exact_value(cost: torch.Tensor) -> tuple[Fraction, Fraction]:
    """Least cost of an assignment of equal weights, and its sum of absolute costs, rational."""
    rows = [[Fraction(c) for c in row] for row in cost.tolist()]
    columns = range(len(rows))
    best = min(
        permutations(columns),
        key=lambda order: sum(row[j] for row, j in zip(rows, order, strict=True)),
    )
    paid = [row[j] for row, j in zip(rows, best, strict=True)]
    return sum(paid) / len(rows), sum(map(abs, paid)) / len(rows)


def costs_of_all_sizes(kind: str, seed: int) -> torch.Tensor:
    random = generator(seed)
    n = 1 + seed % 5
    cost = 10 ** (30 * torch.rand(n, n, generator=random).double() - 15)
    if kind == "of both signs":
        cost *= torch.randint(2, (n, n), generator=random) * 2 - 1
    elif kind == "with ties":
        powers = 10.0 ** torch.randint(31, (n, n), generator=random).double()
        cost = powers * torch.randint(4, (n, n), generator=random)
    return cost


@pytest.mark.parametrize("solve", [exact_transport, solve_primal])
@pytest.mark.parametrize("kind", ["positive", "of both signs", "with ties"])
def test_costs_of_thirty_orders_of_magnitude(kind, solve):
    for seed in range(60):
        cost = costs_of_all_sizes(kind, seed)
        n = len(cost)
        uniform = torch.full((n,), 1 / n, dtype=torch.float64)
        plan = solve(uniform, uniform, cost)
        plan = plan if solve is solve_primal else plan.plan
        entries = zip(plan.flatten().tolist(), cost.flatten().tolist(), strict=True)
        found = sum(Fraction(mass) * Fraction(c) for mass, c in entries)
        expected, paid = exact_value(cost)
        assert abs(found - expected) <= paid * Fraction(1e-12)


def two_groups(apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Costs of two groups of 15, and the least cost: within each group, an assignment."""
    near = torch.cdist(points(30, 2, seed=0), points(30, 2, seed=1))
    cost, least = near.clone(), 0.0
    for group in (slice(0, 15), slice(15, 30)):
        rows, columns = linear_sum_assignment(near[group, group].numpy())
        least += near[group, group][rows, columns].sum() / 30
    cost[:15, 15:] = cost[15:, :15] = apart
    return cost, least


@pytest.mark.parametrize("solve", [exact_transport, solve_primal])
@pytest.mark.parametrize("apart", [1e6, 1e12, 1e15])
def test_two_groups_far_apart(apart, solve):
    cost, least = two_groups(apart)
    uniform = torch.full((30,), 1 / 30, dtype=torch.float64)
    for unit in (1e-30, 1.0, 1e15):
        plan = solve(uniform, uniform, cost * unit)
        plan = plan if solve is solve_primal else plan.plan
        assert_close((plan * cost).sum(), least, rtol=1e-12, atol=0)


def test_costs_up_to_1e30_beside_costs_of_one():
    cost, least = two_groups(1e30)
    uniform = torch.full((30,), 1 / 30, dtype=torch.float64)
    assert_close(exact_transport(uniform, uniform, cost).cost, least, rtol=1e-12, atol=0)


def test_one_shared_point_far_away():
    x, y = points(30, 2, seed=0), points(30, 2, seed=1)
    x[0] = y[0] = 1e5
    cost = (x[:, None] - y).square().sum(-1)
    rows, columns = linear_sum_assignment(cost[1:, 1:].numpy())
    uniform = torch.full((30,), 1 / 30, dtype=torch.float64)
    least = cost[1:, 1:][rows, columns].sum() / 30
    assert_close(exact_transport(uniform, uniform, cost).cost, least, rtol=1e-12, atol=0)


def test_never_a_plan_that_is_not_proved(monkeypatch):
    """One round alone does not see the groups' own costs beside 1e15."""
    monkeypatch.setattr("companion.wasserstein.exact.ROUNDS", 1)
    uniform = torch.full((30,), 1 / 30, dtype=torch.float64)
    message = r"expected costs that float64 can tell apart, got a plan of cost .* save up to"
    with pytest.raises(RuntimeError, match=message):
        exact_transport(uniform, uniform, two_groups(1e15)[0])


def test_a_simplex_that_stops_early_is_told(monkeypatch):
    emd = ot.lp.emd
    monkeypatch.setattr(ot.lp, "emd", lambda *args, **kw: emd(*args, **{**kw, "numItermax": 3}))
    with pytest.raises(RuntimeError, match=r"network simplex stopped: .*numItermax"):
        exact_transport(*problem(13, 17))


def on_a_line(a, b, x, y) -> Fraction:
    """∫ |F − G|, rational; the targets' weights scaled to the sources' mass."""
    a, b, x, y = ([Fraction(v) for v in t.tolist()] for t in (a, b, x, y))
    ratio = sum(a) / sum(b)
    targets = [(at, -weight * ratio) for at, weight in zip(y, b, strict=True)]
    steps = sorted([*zip(x, a, strict=True), *targets])
    total, height = Fraction(0), Fraction(0)
    for (at, weight), (following, _) in pairwise(steps):
        height += weight
        total += abs(height) * (following - at)
    return total


@pytest.mark.parametrize("solve", [exact_transport, solve_primal])
@pytest.mark.parametrize("kind", ["powers of ten", "softmax"])
def test_weights_of_very_different_size(kind, solve):
    for seed in range(40):
        random = generator(seed)
        n, m = 2 + seed % 7, 2 + seed % 5
        if kind == "powers of ten":
            a, b = (10.0 ** -torch.randint(14, (k,), generator=random).double() for k in (n, m))
        else:
            a, b = (torch.randn(k, generator=random).double().mul(10).exp() for k in (n, m))
        a, b = a / a.sum(), b / b.sum()
        x, y = (torch.rand(k, generator=random).double() for k in (n, m))
        cost = (x[:, None] - y).abs()
        plan = solve(a, b, cost)
        plan = plan if solve is solve_primal else plan.plan
        assert plan.min() >= 0
        assert abs((plan * cost).sum() - float(on_a_line(a, b, x, y))) < 1e-15
        if solve is exact_transport:  # relative to each weight
            assert_close(plan.sum(1), a, rtol=1e-12, atol=0)
            assert_close(plan.sum(0), b, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("solve", [exact_transport, solve_primal])
@pytest.mark.parametrize("tiny", [5e-11, 1e-13])
def test_a_weight_below_every_tolerance(tiny, solve):
    a = torch.tensor([tiny, 0.5, 0.5 - tiny]).double()
    b = torch.tensor([0.25, 0.25, 0.5]).double()
    plan = solve(a, b, points(3, 3, seed=0))
    plan = plan if solve is solve_primal else plan.plan
    assert_close(plan.sum(1), a, rtol=1e-12, atol=0)


def test_weights_that_a_presolve_takes_for_a_contradiction():
    a, b = (10.0 ** -torch.tensor(powers).double() for powers in ([7, 3, 0], [16, 9, 1]))
    a, b, cost = a / a.sum(), b / b.sum(), points(3, 3, seed=0)
    plan = solve_primal(a, b, cost)
    assert_close((plan * cost).sum(), exact_transport(a, b, cost).cost, rtol=1e-12, atol=0)


def test_slack_keeps_its_digits_where_potentials_are_huge():
    cost, f = torch.tensor([[0.1, 0.3], [0.7, 0.2]]).double(), torch.tensor([1e12, 1e12]).double()
    exact = [
        [Fraction(c) - Fraction(f_i) - Fraction(g_j) for c, g_j in zip(row, g, strict=True)]
        for g in [c_transform(f, cost).tolist()]
        for row, f_i in zip(cost.tolist(), f.tolist(), strict=True)
    ]
    expected = torch.tensor([[max(float(s), 0.0) for s in row] for row in exact]).double()
    assert_close(_slack(cost, f), expected, rtol=1e-12, atol=0)


# What the interface promises


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_dtype_device_and_strides(dtype, atol, device):
    a, b, cost = problem(7, 5)
    expected = ot.emd2(a.numpy(), b.numpy(), cost.numpy())
    a, b, cost = (t.to(device, dtype) for t in (a, b, cost))
    strided = cost.mT.contiguous().mT
    result = exact_transport(a.repeat_interleave(2)[::2], b, strided)
    for tensor in result:
        assert (tensor.dtype, tensor.device) == (dtype, cost.device)
    assert abs(result.cost - expected) < atol * 10


def test_gradient_of_the_value_is_the_plan():
    a, b, cost = problem(5, 4)
    cost.requires_grad_()
    result = exact_transport(a, b, cost)
    (gradient,) = torch.autograd.grad(result.cost, cost)
    assert_close(gradient, result.plan)
    assert not result.plan.requires_grad
    step = 1e-6 * points(5, 4, seed=9)
    change = exact_transport(a, b, cost.detach() + step).cost - result.cost
    assert_close((gradient * step).sum(), change.detach(), atol=1e-12, rtol=1e-6)


clouds = st.integers(0, 2**31)


@settings(max_examples=25)
@given(seed=clouds, n=st.integers(2, 12), d=st.integers(1, 3))
def test_translation_costs_its_squared_length(seed, n, d):
    x, shift, a = points(n, d, seed=seed), points(1, d, seed=seed + 1), weights(n, seed=seed)
    cost = (x[:, None] - (x + shift)).square().sum(-1)
    assert abs(exact_transport(a, a, cost).cost - shift.square().sum()) < 1e-9


@settings(max_examples=25)
@given(seed=clouds, n=st.integers(2, 12))
def test_relabelled_points_cost_nothing_and_the_plan_is_the_permutation(seed, n):
    x, a = points(n, 2, seed=seed), weights(n, seed=seed)
    order = torch.randperm(n, generator=generator(seed))
    result = exact_transport(a, a[order], (x[:, None] - x[order]).norm(dim=-1))
    assert abs(result.cost) < 1e-12
    assert_close(result.plan[order, torch.arange(n)], a[order])


@settings(max_examples=25)
@given(seed=clouds, d=st.integers(1, 3))
def test_between_gaussians_it_is_bures(seed, d):
    # Whitened samples and a positive map S: x → S x is a gradient of a convex function, hence
    # optimal, and W₂² is Bures' distance between the covariances I and S².
    x = points(20, d, seed=seed)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.mT @ x / 20), x.mT, upper=False).mT
    root = points(d, d, seed=seed + 1)
    s = root @ root.mT + torch.eye(d)
    uniform = torch.full((20,), 1 / 20, dtype=torch.float64)
    cost = (x[:, None] - x @ s).square().sum(-1)
    bures = torch.trace(torch.eye(d) + s @ s - 2 * s)
    assert_close(exact_transport(uniform, uniform, cost).cost, bures, atol=1e-9, rtol=1e-9)


@settings(max_examples=25)
@given(seed=clouds, n=st.integers(2, 9))
def test_it_is_a_distance_when_the_cost_is(seed, n):
    x = points(n, 2, seed=seed)
    distance = (x[:, None] - x).norm(dim=-1)
    a, b, c = (weights(n, seed=seed + k) for k in range(3))
    ab, ba = exact_transport(a, b, distance).cost, exact_transport(b, a, distance).cost
    ac, cb = exact_transport(a, c, distance).cost, exact_transport(c, b, distance).cost
    assert abs(ab - ba) < 1e-12
    assert ab <= ac + cb + 1e-12
    assert exact_transport(a, a, distance).cost < 1e-12
