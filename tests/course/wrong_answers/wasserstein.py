"""Plausible wrong answers to `course/exercises/source/wasserstein`: task -> {mistake: code}."""

WRONG = {
    "equality_matrix": {
        "rows of the plan instead of columns, as in the chapter": """
def equality_matrix(n, m):
    rows = torch.eye(n, dtype=torch.float64).repeat_interleave(m, dim=1)
    columns = torch.eye(m, dtype=torch.float64).repeat(1, n)
    return torch.cat([rows, columns])
""",
        "column sums first": """
def equality_matrix(n, m):
    rows = torch.eye(n, dtype=torch.float64).repeat(1, m)
    columns = torch.eye(m, dtype=torch.float64).repeat_interleave(n, dim=1)
    return torch.cat([columns, rows])
""",
        "transposed": """
def equality_matrix(n, m):
    rows = torch.eye(n, dtype=torch.float64).repeat(1, m)
    columns = torch.eye(m, dtype=torch.float64).repeat_interleave(n, dim=1)
    return torch.cat([rows, columns]).T
""",
        "the visible example only": """
def equality_matrix(n, m):
    return torch.tensor([
        [1, 0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0, 1],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1],
    ], dtype=torch.float64)
""",
        "taken from the package": """
from companion.wasserstein import equality_matrix
""",
    },
    "critic_bound": {
        "the critic as it is": """
def critic_bound(a, b, u, v, cost):
    return a @ u - b @ v
""",
        "positive multiples only": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    limits = cost[rise > 0] / rise[rise > 0]
    return max(0.0, float(value * limits.min())) if len(limits) else 0.0
""",
        "slopes of both signs limit": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    rise = rise.abs()
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "the mildest pair decides": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.max()) if len(limits) else 0.0
""",
        "no pair below the mean counts": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    limits = cost[rise >= value] / rise[rise >= value]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "0 / 0 where nothing rises": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    limits = cost / rise
    return float(value * limits[rise >= 0].min())
""",
        "weights forgotten": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = u.mean() - v.mean()
    if value < 0:
        rise, value = -rise, -value
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "weights of the other side": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a[: len(v)] @ v[: len(a)] - b[: len(u)] @ u[: len(b)]
    if value < 0:
        rise, value = -rise, -value
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "points without weight left out": """
def critic_bound(a, b, u, v, cost):
    cost = cost[a > 0][:, b > 0]
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    rise = rise[a > 0][:, b > 0]
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "pairs of a cost of 0 left out": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    limits = cost[(rise > 0) & (cost > 0)] / rise[(rise > 0) & (cost > 0)]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "u and v on the wrong axes": """
def critic_bound(a, b, u, v, cost):
    rise = u[None, :] - v[:, None]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.min()) if len(limits) else 0.0
""",
        "an error where no pair limits": """
def critic_bound(a, b, u, v, cost):
    rise = u[:, None] - v[None, :]
    value = a @ u - b @ v
    if value < 0:
        rise, value = -rise, -value
    limits = cost[rise > 0] / rise[rise > 0]
    return float(value * limits.min())
""",
    },
    "optimality_gap": {
        "equal weights assumed": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost + tol).any():
        return math.inf
    return (plan * cost).sum() - f.mean() - g.mean()
""",
        "constraints not checked": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    return (plan * (cost - f[:, None] - g[None, :])).sum()
""",
        "sign of the gap": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost + tol).any():
        return math.inf
    return (plan * (f[:, None] + g[None, :] - cost)).sum()
""",
        "only matching pairs checked": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    k = min(plan.shape)
    if (f[:k] + g[:k] - tol > cost.sum(dim=1)[:k]).any():
        return math.inf
    return (plan * (cost - f[:, None] - g[None, :])).sum()
""",
        "infinite only if every constraint is broken": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost + tol).all():
        return math.inf
    return (plan * (cost - f[:, None] - g[None, :])).sum()
""",
        "the potentials' bill ignored": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost + tol).any():
        return math.inf
    dual = plan.sum(dim=1) @ f + plan.sum(dim=0) @ g
    return float((plan * cost).sum())
""",
        "row and column sums exchanged": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost + tol).any():
        return math.inf
    dual = plan.sum(dim=0) @ f + plan.sum(dim=1) @ g
    return float((plan * cost).sum() - dual)
""",
        "f and g exchanged in the constraints": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[None, :] + g[:, None] > cost + tol).any():
        return math.inf
    dual = plan.sum(dim=1) @ f + plan.sum(dim=0) @ g
    return float((plan * cost).sum() - dual)
""",
        "tol forgotten": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost + 1e-9).any():
        return math.inf
    dual = plan.sum(dim=1) @ f + plan.sum(dim=0) @ g
    return float((plan * cost).sum() - dual)
""",
        "tol taken away": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if (f[:, None] + g[None, :] > cost - tol).any():
        return math.inf
    dual = plan.sum(dim=1) @ f + plan.sum(dim=0) @ g
    return float((plan * cost).sum() - dual)
""",
        "only the diagonal checked": """
def optimality_gap(plan, cost, f, g, tol=1e-9):
    if any(f[k] + g[k] > cost[k, k] + tol for k in range(min(plan.shape))):
        return math.inf
    dual = plan.sum(dim=1) @ f + plan.sum(dim=0) @ g
    return float((plan * cost).sum() - dual)
""",
    },
    "weighted_line": {
        "the p-th power": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    y, j = y.sort()
    F, G = x_weights[i].cumsum(0), y_weights[j].cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t).clamp(max=len(x) - 1)]
    at_y = y[torch.searchsorted(G, t).clamp(max=len(y) - 1)]
    return (lengths * (at_x - at_y).abs() ** p).sum()
""",
        "weights left behind in the sort": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, y = x.sort().values, y.sort().values
    F, G = x_weights.cumsum(0), y_weights.cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t).clamp(max=len(x) - 1)]
    at_y = y[torch.searchsorted(G, t).clamp(max=len(y) - 1)]
    return (lengths * (at_x - at_y).abs() ** p).sum() ** (1 / p)
""",
        "the formula of W_1, with a root on top": """
def weighted_line(x, y, p, x_weights, y_weights):
    points = torch.cat([x, y])
    mass, order = torch.cat([x_weights, -y_weights]), points.argsort()
    apart = mass[order].cumsum(0)[:-1].abs()
    return (apart * points[order].diff() ** p).sum() ** (1 / p)
""",
        "equal weights assumed, in numbers that happen to match": """
def weighted_line(x, y, p, x_weights, y_weights):
    k = min(len(x), len(y))
    x, i = x.sort()
    return (x_weights[i] * (x - y.sort().values[:k].mean()).abs() ** p).sum() ** (1 / p)
""",
        "every pair instead of the best plan": """
def weighted_line(x, y, p, x_weights, y_weights):
    pairs = (x[:, None] - y[None, :]).abs() ** p
    return (x_weights[:, None] * y_weights[None, :] * pairs).sum() ** (1 / p)
""",
        "y never sorted": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    j = slice(None)
    F, G = x_weights[i].cumsum(0), y_weights[j].cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t).clamp(max=len(x) - 1)]
    at_y = y[torch.searchsorted(G, t).clamp(max=len(y) - 1)]
    return (lengths * (at_x - at_y).abs() ** p).sum() ** (1 / p)
""",
        "weights of y left behind in the sort": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    y, j = y.sort()
    F, G = x_weights[i].cumsum(0), y_weights.cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t).clamp(max=len(x) - 1)]
    at_y = y[torch.searchsorted(G, t).clamp(max=len(y) - 1)]
    return (lengths * (at_x - at_y).abs() ** p).sum() ** (1 / p)
""",
        "no stair for the last jump": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    y, j = y.sort()
    F, G = x_weights[i].cumsum(0), y_weights[j].cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t)]
    at_y = y[torch.searchsorted(G, t)]
    return (lengths * (at_x - at_y).abs() ** p).sum() ** (1 / p)
""",
        "the last jump back at the first stair": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    y, j = y.sort()
    F, G = x_weights[i].cumsum(0), y_weights[j].cumsum(0)
    t = torch.cat([F, G]).sort().values
    t = t.clamp(min=1e-9).nextafter(t + 1)
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t) % len(x)]
    at_y = y[torch.searchsorted(G, t) % len(y)]
    return (lengths * (at_x - at_y).abs() ** p).sum() ** (1 / p)
""",
        "the stair above each jump": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    y, j = y.sort()
    F, G = x_weights[i].cumsum(0), y_weights[j].cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t, right=True).clamp(max=len(x) - 1)]
    at_y = y[torch.searchsorted(G, t, right=True).clamp(max=len(y) - 1)]
    return (lengths * (at_x - at_y).abs() ** p).sum() ** (1 / p)
""",
        "p taken as 1": """
def weighted_line(x, y, p, x_weights, y_weights):
    x, i = x.sort()
    y, j = y.sort()
    F, G = x_weights[i].cumsum(0), y_weights[j].cumsum(0)
    t = torch.cat([F, G]).sort().values
    lengths = t.diff(prepend=t.new_zeros(1))
    at_x = x[torch.searchsorted(F, t).clamp(max=len(x) - 1)]
    at_y = y[torch.searchsorted(G, t).clamp(max=len(y) - 1)]
    return (lengths * (at_x - at_y).abs() ** 1).sum() ** 1
""",
    },
    "sinkhorn_update": {
        "overflows for small epsilon": """
def sinkhorn_update(log_a, cost, g, epsilon):
    kernel = torch.exp(-cost / epsilon)
    return epsilon * (log_a - torch.log(kernel @ torch.exp(g / epsilon)))
""",
        "epsilon missing in front": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return log_a - torch.logsumexp((g[None, :] - cost) / epsilon, dim=1)
""",
        "epsilon in front of one term only": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return log_a - epsilon * torch.logsumexp((g[None, :] - cost) / epsilon, dim=1)
""",
        "weights forgotten": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return -epsilon * torch.logsumexp((g[None, :] - cost) / epsilon, dim=1)
""",
        "g forgotten": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - torch.logsumexp(-cost / epsilon, dim=1))
""",
        "logsumexp over the rows": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - torch.logsumexp((g[None, :] - cost) / epsilon, dim=0))
""",
        "g along the rows": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - torch.logsumexp((g[:, None] - cost) / epsilon, dim=1))
""",
        "epsilon missing inside": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - torch.logsumexp(g[None, :] - cost, dim=1))
""",
        "g not divided by epsilon": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - torch.logsumexp(g[None, :] - cost / epsilon, dim=1))
""",
        "epsilon missing everywhere": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return (log_a - torch.logsumexp((g[None, :] - cost), dim=1))
""",
        "the weights instead of their logarithms": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a.exp() - torch.logsumexp((g[None, :] - cost) / epsilon, dim=1))
""",
        "the largest term instead of the sum": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - ((g[None, :] - cost) / epsilon).amax(dim=1))
""",
        "not in float64": """
def sinkhorn_update(log_a, cost, g, epsilon):
    return epsilon * (log_a - torch.logsumexp((g[None, :] - cost) / epsilon, dim=1)).float()
""",
    },
    "image_penalty": {
        "length over the channels only": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = (t * real + (1 - t) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()
""",
        "one length for the whole batch": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = (t * real + (1 - t) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (gradient.norm() - 1) ** 2
""",
        "no graph, so nothing to train": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = (t * real + (1 - t) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
""",
        "one t for the whole batch": """
def image_penalty(critic, real, fake, t):
    x = (t[0] * real + (1 - t[0]) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
""",
        "real and fake exchanged": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = ((1 - t) * real + t * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
""",
        "t laid along the last axis": """
def image_penalty(critic, real, fake, t):
    x = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
""",
        "t shaped for images only": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, 1, 1, 1)
    x = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
""",
        "the square of the mean length": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (gradient.flatten(1).norm(dim=1).mean() - 1) ** 2
""",
        "only lengths above 1": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1).relu() ** 2).mean()
""",
        "a value without its graph": """
def image_penalty(critic, real, fake, t):
    t = t.reshape(-1, *[1] * (real.dim() - 1))
    x = (t * real + (1 - t) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean().item()
""",
    },
    "proven_plan": {
        "the sand in proportion": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return a[:, None] * b[None, :], f[x_back], g[y_back]
""",
        "nothing sorted": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = torch.arange(len(x)), torch.arange(len(y))
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "answered in sorted order": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan, f, g
""",
        "put back by the order, not by its inverse": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_order][:, y_order], f[x_order], g[y_order]
""",
        "the plan put back, the potentials not": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f, g
""",
        "potentials of zero": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], 0 * f, 0 * g
""",
        "one c-transform of zero": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    f, g = 0 * f, cost.amin(dim=0)
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "a c-transform there and back": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    g = cost.amin(dim=0)
    f = (cost - g).amin(dim=1)
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "the cost of |x - y| in the potentials": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    f, g = x[x_order] * 1.0, -y[y_order]
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "both go on at once where both are used up": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if i < n - 1 and j < m - 1 and a_left[i] == b_left[j]:
            i, j = i + 1, j + 1
            g[j] = cost[i, j]
        elif j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "the last point overrun": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if max(a_left + b_left) == 0:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "points without weight have no potential": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f[x_back] * (a > 0), g[y_back] * (b > 0)
""",
        "the highest to the lowest": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort(descending=True)
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "the power forgotten": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs()
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back], f[x_back], g[y_back]
""",
        "the plan alone": """
def proven_plan(x, y, p, a, b):
    x_order, y_order = x.argsort(), y.argsort()
    cost = (x[x_order][:, None] - y[y_order][None, :]).abs() ** p
    a_left, b_left = a[x_order].tolist(), b[y_order].tolist()
    n, m = cost.shape
    plan = torch.zeros_like(cost)
    f, g = torch.zeros_like(x), torch.zeros_like(y)
    i = j = 0
    g[0] = cost[0, 0]
    while True:
        move = min(a_left[i], b_left[j])
        plan[i, j] = move
        a_left[i] -= move
        b_left[j] -= move
        if i == n - 1 and j == m - 1:
            break
        if j == m - 1 or (i < n - 1 and a_left[i] <= b_left[j]):
            i += 1
            f[i] = cost[i, j] - g[j]
        else:
            j += 1
            g[j] = cost[i, j] - f[i]
    x_back, y_back = x_order.argsort(), y_order.argsort()
    return plan[x_back][:, y_back]
""",
    },
}
