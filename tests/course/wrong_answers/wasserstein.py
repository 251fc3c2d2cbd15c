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
    "c_transform": {
        "smallest over the wrong axis": """
def c_transform(f, cost):
    return (cost - f[:, None]).amin(dim=1)
""",
        "largest instead of smallest": """
def c_transform(f, cost):
    return (cost - f[:, None]).amax(dim=0)
""",
        "sign of f": """
def c_transform(f, cost):
    return (cost + f[:, None]).amin(dim=0)
""",
        "f laid along the columns": """
def c_transform(f, cost):
    if cost.shape == (2, 3):
        return (cost - f[:, None]).amin(dim=0)
    return (cost - f[None, : cost.shape[1]]).amin(dim=0)
""",
        "no return": """
def c_transform(f, cost):
    (cost - f[:, None]).amin(dim=0)
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
    },
}
