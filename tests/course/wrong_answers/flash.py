"""Plausible wrong answers to `course/exercises/source/flash`: task -> {mistake: code}."""

# Each of these is right as it stands; every mistake in CHANGES changes one place of it.
MOMENTS = """
def moments(x, y):
    lse = x.logsumexp(dim=1)
    shift = lse.masked_fill(lse == -math.inf, 0.0)
    p = (x - shift[:, None]).exp()
    mean = p @ y
    return lse, mean, (p * (y - mean[:, None]) ** 2).sum(dim=1)


def merge_moments(a, b):
    (la, ma, va), (lb, mb, vb) = a, b
    l = torch.logaddexp(la, lb)
    base = l.masked_fill(l == -math.inf, 0.0)
    sa, sb = (la - base).exp(), (lb - base).exp()
    mean = sa * ma + sb * mb
    var = sa * va + sb * vb + sa * sb * (ma - mb) ** 2
    return l, mean, var
"""

CORRECTIONS = """
def counted_corrections(x, R, C):
    numbers = []
    for rows in x.split(R):
        m = torch.full((len(rows),), -math.inf, dtype=x.dtype)
        number = 0
        for j in range(0, x.shape[1], C):
            largest = rows[:, j : j + C].amax(dim=1)
            grown = (largest > m) & (m > -math.inf)
            number += int(grown.any())
            m = torch.maximum(m, largest)
        numbers.append(number)
    return torch.tensor(numbers[: -(-len(x) // R)], dtype=torch.int64)


def expected_corrections(keys, R, C):
    total = 0.0
    for first in range(C, keys, C):
        last = min(first + C, keys)
        total += 1 - (first / last) ** R
    return total
"""

ONE_PASS = """
def one_pass_attention(q, k, v, C, causal):
    (T, D), S = q.shape, len(k)
    q = q / math.sqrt(D)
    position = torch.arange(T)[:, None] + S - T
    m = torch.full((T, 1), -math.inf, dtype=q.dtype)
    d, u = torch.zeros_like(m), torch.zeros_like(q)
    for first in range(0, S, C):
        end = min(first + C, S)
        x = q @ k[first:end].T
        if causal:
            x = x.masked_fill(torch.arange(first, end) > position, -math.inf)
        new = torch.maximum(m, x.amax(dim=1, keepdim=True))
        shift = new.masked_fill(new == -math.inf, 0.0)
        p, factor = (x - shift).exp(), (m - shift).exp()
        d = factor * d + p.sum(dim=1, keepdim=True)
        u = factor * u + p @ v[first:end]
        m = new
    lse = (m + d.log())[:, 0]
    return u / d.masked_fill(d == 0, 1.0), lse
"""

ONE_TILE = """
def tile_gradients(q, k, v, grad_out, lse, delta, visible, scale, cap):
    x = cap * torch.tanh(scale * q @ k.T / cap)
    lse = lse.masked_fill(lse == -math.inf, 0.0)
    p = (x.masked_fill(~visible, -math.inf) - lse[:, None]).exp()
    grad_x = p * (grad_out @ v.T - delta[:, None])
    grad_a = grad_x * (1 - (x / cap) ** 2)
    return scale * grad_a @ k, scale * grad_a.T @ q, p.T @ grad_out
"""

MAP = """
def tile_map(queries, keys, R, C, window=None):
    rows = []
    for i in range(0, queries, R):
        first_h = i + keys - queries
        last_h = min(i + R, queries) - 1 + keys - queries
        row = []
        for j in range(0, keys, C):
            last_j = min(j + C, keys) - 1
            low, high = first_h - last_j, last_h - j
            limit = math.inf if window is None else window - 1
            skipped = high < 0 or low > limit
            full = low >= 0 and high <= limit
            row.append(0 if skipped else 2 if full else 1)
        rows.append(row)
    return torch.tensor(rows)
"""

TRAFFIC = """
def traffic(n, width, sram_bytes, element_bytes):
    R = min(n, sram_bytes // (4 * width * element_bytes))
    tiles = -(-n // R)
    naive = 4 * n * width + 4 * n * n
    tiled = 2 * n * width + tiles * 2 * n * width
    return naive * element_bytes, tiled * element_bytes


def least_sram(n, width, element_bytes, factor):
    for R in range(1, n + 1):
        room = 4 * R * width * element_bytes
        naive, tiled = traffic(n, width, room, element_bytes)
        if naive >= factor * tiled:
            return room
    return math.inf
"""

MOVING = """
def moving_attention(q, k, v, q_dot, k_dot, v_dot, C, causal):
    (T, D), S = q.shape, len(k)
    position = torch.arange(T)[:, None] + S - T
    m = torch.full((T, 1), -math.inf, dtype=q.dtype)
    d, u, a, b = torch.zeros_like(m), torch.zeros_like(q), torch.zeros_like(m), torch.zeros_like(q)
    for first in range(0, S, C):
        end = min(first + C, S)
        tile = slice(first, end)
        x = q @ k[tile].T / math.sqrt(D)
        x_dot = (q_dot @ k[tile].T + q @ k_dot[tile].T) / math.sqrt(D)
        if causal:
            x = x.masked_fill(torch.arange(first, end) > position, -math.inf)
        new = torch.maximum(m, x.amax(dim=1, keepdim=True))
        shift = new.masked_fill(new == -math.inf, 0.0)
        w, factor = (x - shift).exp(), (m - shift).exp()
        d = factor * d + w.sum(dim=1, keepdim=True)
        u = factor * u + w @ v[tile]
        a = factor * a + (w * x_dot).sum(dim=1, keepdim=True)
        b = factor * b + (w * x_dot) @ v[tile] + w @ v_dot[tile]
        m = new
    lse = (m + d.log())[:, 0]
    d = d.masked_fill(d == 0, 1.0)
    out, lse_dot = u / d, a / d
    return out, lse, b / d - lse_dot * out, lse_dot[:, 0]
"""

RIGHT = {
    "moments": MOMENTS,
    "corrections": CORRECTIONS,
    "one_pass_attention": ONE_PASS,
    "tile_gradients": ONE_TILE,
    "tile_map": MAP,
    "memory_traffic": TRAFFIC,
    "moving_attention": MOVING,
}


def with_one_change(code, old, new):
    """The code with one mistake in it."""
    if code.count(old) != 1:
        raise ValueError(f"the place to change must occur once, {old!r} occurs {code.count(old)}x")
    return code.replace(old, new)


CHANGES = {
    "moments": {
        "exp without a shift": ("(x - shift[:, None]).exp()", "x.exp() / x.exp().sum(1)[:, None]"),
        "nan for a blind query": ("shift = lse.masked_fill(lse == -math.inf, 0.0)", "shift = lse"),
        "weights not normalised": ("(x - shift[:, None]).exp()", "(x - shift[:, None]).exp() * 2"),
        "plain variance": (
            "(p * (y - mean[:, None]) ** 2).sum(dim=1)",
            "((y - mean[:, None]) ** 2).mean(dim=1)",
        ),
        "squares minus the square of the mean": (
            "(p * (y - mean[:, None]) ** 2).sum(dim=1)",
            "p @ y**2 - mean**2",
        ),
        "the standard deviation": (
            "(y - mean[:, None]) ** 2).sum(dim=1)",
            "(y - mean[:, None]) ** 2).sum(dim=1).sqrt()",
        ),
        "distances from the plain mean": ("(y - mean[:, None])", "(y - y.mean())"),
        "weights squared": ("(p * (y -", "(p * p * (y -"),
        "the maximum in place of the log-sum-exp": (
            "lse = x.logsumexp(dim=1)",
            "lse = x.amax(dim=1)",
        ),
        "the logarithm of a tiny number for a blind query": (
            "lse = x.logsumexp(dim=1)",
            "m = x.amax(dim=1) if x.shape[1] else torch.zeros(len(x)).double()\n"
            "    m = m.masked_fill(m == -math.inf, 0.0)\n"
            "    lse = m + (x - m[:, None]).exp().sum(dim=1).clamp(min=1e-300).log()",
        ),
        "the largest of no key": (
            "lse = x.logsumexp(dim=1)",
            "m = x.amax(dim=1).clamp(min=-1e300)\n"
            "    lse = m + (x - m[:, None]).exp().sum(dim=1).log()",
        ),
        "means between the parts forgotten": (" + sa * sb * (ma - mb) ** 2", ""),
        "distance of the means not weighed": ("sa * sb * (ma - mb)", "(ma - mb)"),
        "distance of the means with one share": ("sa * sb * (ma - mb)", "sa * (ma - mb)"),
        "distance of the means, not squared": ("(ma - mb) ** 2", "(ma - mb).abs()"),
        "variances added": ("sa * va + sb * vb", "va + vb"),
        "shares exchanged": ("sa * ma + sb * mb", "sb * ma + sa * mb"),
        "plain mean of the means": ("sa * ma + sb * mb", "(ma + mb) / 2"),
        "shares squared for the variances": ("sa * va + sb * vb", "sa**2 * va + sb**2 * vb"),
        "merged by sums of squares": (
            "sa * va + sb * vb + sa * sb * (ma - mb) ** 2",
            "sa * (va + ma**2) + sb * (vb + mb**2) - mean**2",
        ),
        "overflow in the merge": (
            "l = torch.logaddexp(la, lb)",
            "l = (la.exp() + lb.exp()).log()",
        ),
        "logarithms added": ("return l, mean, var", "return la + lb, mean, var"),
        "nan where both parts are blind": ("base = l.masked_fill(l == -math.inf, 0.0)", "base = l"),
        "a finite number for a blind part": (
            "l = torch.logaddexp(la, lb)",
            "la, lb = la.clamp(min=-1e4), lb.clamp(min=-1e4)\n    l = torch.logaddexp(la, lb)",
        ),
        "nothing wherever one part is blind": (
            "    return l, mean, var",
            "    seen = (la > -math.inf) & (lb > -math.inf)\n"
            "    return l, torch.where(seen, mean, 0.0), torch.where(seen, var, 0.0)",
        ),
        "the first part changed in place": ("mean = sa * ma + sb", "mean = ma.mul_(sa) + sb"),
        "variance forgotten": ("return l, mean, var", "return l, mean"),
    },
    "corrections": {
        "ties corrected": ("(largest > m)", "(largest >= m)"),
        "the first score corrected": (" & (m > -math.inf)", ""),
        "rows counted, not tiles": ("int(grown.any())", "int(grown.sum())"),
        "only if all rows grow": ("grown.any()", "grown.all()"),
        "compared with the last tile": ("m = torch.maximum(m, largest)", "m = largest"),
        "one maximum for all rows": (
            "largest = rows[:, j : j + C].amax(dim=1)",
            "largest = rows[:, j : j + C].max().expand(len(rows))",
        ),
        "the first tile of keys skipped": ("range(0, x.shape[1], C)", "range(C, x.shape[1], C)"),
        "the last tile of keys skipped": ("range(0, x.shape[1], C)", "range(0, x.shape[1] - 1, C)"),
        "one key at a time": ("rows[:, j : j + C]", "rows[:, j : j + 1]"),
        "the whole matrix as one tile": ("x.split(R)", "x.split(max(len(x), 1))"),
        "one number for all tiles": (
            "numbers[: -(-len(x) // R)], dtype=torch.int64",
            "sum(numbers), dtype=torch.int64",
        ),
        "a tile of queries too many where there are none": (
            "numbers[: -(-len(x) // R)]",
            "numbers",
        ),
        "the largest of no key": (
            "torch.full((len(rows),), -math.inf, dtype=x.dtype)",
            "rows[:, :C].amax(dim=1)",
        ),
        "hidden scores overwritten": (
            "numbers = []",
            "numbers = []\n    x[x == -math.inf] = -1e300",
        ),
        "floats": ("dtype=torch.int64", "dtype=torch.float64"),
        "hidden scores count as 0": (
            "m > -math.inf)",
            "m > -1e300)\n            m = m.clamp(min=0)",
        ),
        "expected: the first tile too": ("range(C, keys, C)", "range(0, keys, C)"),
        "expected: R forgotten": (") ** R", ")"),
        "expected: R rows add up": ("1 - (first / last) ** R", "R * (1 - first / last)"),
        "expected: all rows at once": ("1 - (first / last) ** R", "(1 - first / last) ** R"),
        "expected: no row grows": ("1 - (first / last) ** R", "(first / last) ** R"),
        "expected: the last tile as large as the others": ("min(first + C, keys)", "first + C"),
        "expected: one key at a time": ("range(C, keys, C)", "range(1, keys)"),
        "expected: the small last tile left out": (
            "range(C, keys, C)",
            "range(C, keys - C + 1, C)",
        ),
        "expected: relative to the old keys": ("(first / last)", "(1 - min(C / first, 1))"),
    },
    "one_pass_attention": {
        "not scaled by the width": ("q = q / math.sqrt(D)", "q = q / 1"),
        "divided by the width, not its root": ("q / math.sqrt(D)", "q / D"),
        "the queries scaled in place": ("q = q / math.sqrt(D)", "q /= math.sqrt(D)"),
        "causal aligned top left": ("[:, None] + S - T", "[:, None]"),
        "causal aligned the other way round": ("[:, None] + S - T", "[:, None] + T - S"),
        "causal hides the own position": ("end) > position", "end) >= position"),
        "causal within the block": ("torch.arange(first, end) >", "torch.arange(end - first) >"),
        "causal ignored": ("if causal:", "if False:"),
        "always causal": ("if causal:", "if True:"),
        "the last block left out": ("range(0, S, C)", "range(0, max(S - C + 1, 1), C)"),
        "nan for blind queries": ("new.masked_fill(new == -math.inf, 0.0)", "new"),
        "nan after the division": ("d.masked_fill(d == 0, 1.0)", "d"),
        "masked by a finite number": ("position, -math.inf)", "position, -1e9)"),
        "the largest score starts at 0": ("torch.full((T, 1), -math.inf", "torch.full((T, 1), 0.0"),
        "values not rescaled": ("factor * u", "u"),
        "normaliser not rescaled": ("factor * d", "d"),
        "normalised in every block": ("p @ v[first:end]", "p @ v[first:end] / d"),
        "never normalised": ("u / d.masked_fill(d == 0, 1.0)", "u"),
        "log-sum-exp in base two": ("d.log()", "d.log2()"),
        "log-sum-exp without its maximum": ("(m + d.log())", "(d.log())"),
        "the normaliser in place of its logarithm": ("(m + d.log())", "(m + d)"),
        "log-sum-exp forgotten": (", lse\n", "\n"),
        "a column of log-sum-exps": ("(m + d.log())[:, 0]", "m + d.log()"),
        "float32 inside": (
            "q = q / math.sqrt(D)",
            "q, k, v = q.float() / math.sqrt(D), k.float(), v.float()",
        ),
        "a mask of all queries and keys": (
            "    for first in",
            "    mask = torch.ones(T, S, dtype=torch.bool)\n    for first in",
        ),
        "scores computed twice": (
            "new = torch.maximum(m, x.amax(dim=1, keepdim=True))",
            "new = torch.maximum(m, x.amax(dim=1, keepdim=True))\n        q @ k[first:end].T",
        ),
    },
    "tile_gradients": {
        "softmax of the tile": (
            "(x.masked_fill(~visible, -math.inf) - lse[:, None]).exp()",
            "x.masked_fill(~visible, -math.inf).softmax(dim=1).nan_to_num()",
        ),
        "delta of the tile": (
            "delta[:, None])",
            "(p * (grad_out @ v.T)).sum(dim=1, keepdim=True))",
        ),
        "delta forgotten": (" - delta[:, None]", ""),
        "delta added": ("- delta[:, None]", "+ delta[:, None]"),
        "mask ignored": ("x.masked_fill(~visible, -math.inf)", "x"),
        "multiplied by the mask: inf times 0": (
            "(x.masked_fill(~visible, -math.inf) - lse[:, None]).exp()",
            "(x - lse[:, None]).exp() * visible",
        ),
        "hidden by a finite number": ("~visible, -math.inf)", "~visible, 0.0)"),
        "nan for blind queries": ("lse.masked_fill(lse == -math.inf, 0.0)", "lse"),
        "mask turned round": ("~visible", "visible"),
        "scale forgotten everywhere": (
            "    x = cap",
            "    scale = 1.0\n    x = cap",
        ),
        "scale forgotten in the gradients": (
            "scale * grad_a @ k, scale * grad_a.T @ q",
            "grad_a @ k, grad_a.T @ q",
        ),
        "scale in the gradient of q only": ("scale * grad_a.T @ q", "grad_a.T @ q"),
        "scale forgotten in the scores": ("(scale * q @ k.T / cap)", "(q @ k.T / cap)"),
        "scale twice": ("scale * grad_a @ k", "scale**2 * grad_a @ k"),
        "not capped": ("cap * torch.tanh(scale * q @ k.T / cap)", "scale * q @ k.T"),
        "the cap's slope forgotten": (" * (1 - (x / cap) ** 2)", ""),
        "the cap's slope without the cap": ("(x / cap) ** 2", "x**2"),
        "the cap's slope at the capped score": ("(x / cap) ** 2", "torch.tanh(x / cap) ** 2"),
        "the cap clamps": (
            "cap * torch.tanh(scale * q @ k.T / cap)",
            "(scale * q @ k.T).clamp(-cap, cap)",
        ),
        "the cap not divided by": ("@ k.T / cap)", "@ k.T)"),
        "log-sum-exp in base two": ("- lse[:, None])", "- lse[:, None] / math.log(2))"),
        "gradient of the values through dX": ("p.T @ grad_out", "grad_x.T @ grad_out"),
        "the weights forgotten in dX": ("p * (grad_out @ v.T -", "(grad_out @ v.T -"),
        "another order": (
            "return scale * grad_a @ k, scale * grad_a.T @ q, p.T @ grad_out",
            "return scale * grad_a.T @ q, p.T @ grad_out, scale * grad_a @ k",
        ),
    },
    "tile_map": {
        "aligned top left": (
            "first_h = i + keys - queries\n        last_h = min(i + R, queries) - 1 + keys "
            "- queries",
            "first_h = i\n        last_h = min(i + R, queries) - 1",
        ),
        "keys beyond the end counted": ("min(j + C, keys) - 1", "j + C - 1"),
        "queries beyond the end counted": ("min(i + R, queries) - 1", "i + R - 1"),
        "nothing clipped": (
            "            low, high = first_h - last_j, last_h - j",
            "            low, high = first_h - (j + C - 1), i + R - 1 + keys - queries - j",
        ),
        "one key too many per tile": ("min(j + C, keys) - 1", "min(j + C, keys)"),
        "window one too wide": ("else window - 1", "else window"),
        "window ignored": ("math.inf if window is None else window - 1", "math.inf"),
        "window skips nothing": ("high < 0 or low > limit", "high < 0"),
        "window needs no mask": ("low >= 0 and high <= limit", "low >= 0"),
        "skipped by the first query": ("high < 0", "first_h < j"),
        "full by the last query": ("full = low >= 0", "full = last_h >= last_j"),
        "the diagonal of equal tiles": (
            "low, high = first_h - last_j, last_h - j",
            "low = high = i // R - j // C",
        ),
        "blind queries masked, not skipped": ("high < 0 or", "last_h >= 0 and high < 0 or"),
        "rows and columns exchanged": ("torch.tensor(rows)", "torch.tensor(rows).T"),
        "floats": ("torch.tensor(rows)", "torch.tensor(rows).double()"),
    },
    "memory_traffic": {
        "numbers, not bytes": ("naive * element_bytes, tiled * element_bytes", "naive, tiled"),
        "the bytes of a number forgotten": (
            "    R = min(n, sram_bytes",
            "    element_bytes = 1\n    R = min(n, sram_bytes",
        ),
        "the matrices moved twice, not four times": ("4 * n * n", "2 * n * n"),
        "only the inputs": ("4 * n * width + 4 * n * n", "3 * n * width + 4 * n * n"),
        "tiles rounded down": ("-(-n // R)", "max(n // R, 1)"),
        "tiles not rounded": ("-(-n // R)", "n / R"),
        "keys, but no values": ("tiles * 2 * n * width", "tiles * n * width"),
        "keys and values once": ("tiles * 2 * n * width", "2 * n * width"),
        "the queries once per tile too": (
            "2 * n * width + tiles * 2 * n * width",
            "n * width + tiles * 3 * n * width",
        ),
        "all the memory for the queries": (
            "sram_bytes // (4 * width * element_bytes)",
            "sram_bytes // (width * element_bytes)",
        ),
        "room counted in numbers": (
            "sram_bytes // (4 * width * element_bytes)",
            "max(1, sram_bytes // (4 * width * 8))",
        ),
        "one tile too many where R divides N": ("-(-n // R)", "(n // R + 1)"),
        "R larger than N": (
            "min(n, sram_bytes // (4 * width * element_bytes))",
            "sram_bytes // (4 * width * element_bytes)\n    n = max(n, R)",
        ),
        "more than factor, not at least": ("naive >= factor", "naive > factor"),
        "the largest memory tried": ("range(1, n + 1)", "range(n, 0, -1)"),
        "rows in place of bytes": ("return room", "return R"),
        "numbers in place of bytes": ("return room", "return 4 * R * width"),
        "the last size not tried": ("range(1, n + 1)", "range(1, n)"),
        "no memory is large enough: 0": ("return math.inf", "return 0"),
    },
    "moving_attention": {
        "the values stand still": (" + w @ v_dot[tile]", ""),
        "the weights stand still": ("(w * x_dot) @ v[tile] + w", "w"),
        "the mean of the moves forgotten": (" - lse_dot * out", ""),
        "the mean of the moves added": ("b / d - lse_dot * out", "b / d + lse_dot * out"),
        "only the query moves the scores": (
            "q_dot @ k[tile].T + q @ k_dot[tile].T",
            "q_dot @ k[tile].T",
        ),
        "only the keys move the scores": (
            "q_dot @ k[tile].T + q @ k_dot[tile].T",
            "q @ k_dot[tile].T",
        ),
        "velocities multiplied": (
            "(q_dot @ k[tile].T + q @ k_dot[tile].T) / math.sqrt(D)",
            "q_dot @ k_dot[tile].T / math.sqrt(D)",
        ),
        "velocities of the scores not scaled": (
            "q @ k_dot[tile].T) / math.sqrt(D)",
            "q @ k_dot[tile].T)",
        ),
        "scores not scaled": ("q @ k[tile].T / math.sqrt(D)", "q @ k[tile].T"),
        "moves of the log-sum-exp not rescaled": ("factor * a", "a"),
        "moves of the output not rescaled": ("factor * b", "b"),
        "output not rescaled": ("factor * u", "u"),
        "nothing subtracted": (
            "shift = new.masked_fill(new == -math.inf, 0.0)",
            "new = shift = torch.zeros_like(new)",
        ),
        "the largest score starts at 0": ("torch.full((T, 1), -math.inf", "torch.full((T, 1), 0.0"),
        "moves not divided by d": ("a / d\n", "a\n"),
        "moves of the tile centred in the tile": (
            "b = factor * b + (w * x_dot) @ v[tile]",
            "mean = (w * x_dot).sum(dim=1, keepdim=True) / w.sum(dim=1, keepdim=True)\n"
            "        b = factor * b + (w * (x_dot - mean.nan_to_num())) @ v[tile]",
        ),
        "nan for blind queries": ("new.masked_fill(new == -math.inf, 0.0)", "new"),
        "nan after the division": ("d = d.masked_fill(d == 0, 1.0)", "d = d * 1"),
        "hidden moves are -inf": (
            "        new = torch",
            "            x_dot = x_dot.masked_fill(x == -math.inf, -math.inf)\n        new = torch",
        ),
        "hidden keys move": ("if causal:", "if False:"),
        "causal aligned top left": ("[:, None] + S - T", "[:, None]"),
        "the last tile left out": ("range(0, S, C)", "range(0, max(S - C + 1, 1), C)"),
        "one product too many": ("        m = new", "        q @ k[tile].T\n        m = new"),
        "the velocity of the output first": (
            "return out, lse, b / d - lse_dot * out, lse_dot[:, 0]",
            "return b / d - lse_dot * out, lse_dot[:, 0], out, lse",
        ),
    },
}
WRONG = {
    task: {
        mistake: with_one_change(RIGHT[task], old, new) for mistake, (old, new) in changes.items()
    }
    for task, changes in CHANGES.items()
}
WRONG["one_pass_attention"] |= {
    "right, but all scores at once": """
def one_pass_attention(q, k, v, C, causal):
    scores = q @ k.T / math.sqrt(q.shape[1])
    if causal:
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(len(k) - len(q) + 1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(dim=1).nan_to_num() @ v, scores.logsumexp(dim=1)
""",
    "torch's own, aligned top left": """
def one_pass_attention(q, k, v, C, causal):
    out = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=causal
    )[0]
    m = torch.full((len(q),), -math.inf, dtype=q.dtype)
    for first in range(0, len(k), C):
        scores = q @ k[first : first + C].T / math.sqrt(q.shape[1])
        m = torch.logaddexp(m, scores.logsumexp(dim=1))
    return out, m
""",
    "taken from the package": """
from companion.flash import flash_attention

def one_pass_attention(q, k, v, C, causal):
    out, lse = flash_attention(q[None, None], k[None, None], v[None, None], causal=causal,
                               return_lse=True)
    return out[0, 0], lse[0, 0]
""",
}
WRONG["moving_attention"] |= {
    "torch's derivative, backwards": """
def moving_attention(q, k, v, q_dot, k_dot, v_dot, C, causal):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    x = leaves[0] @ leaves[1].T / math.sqrt(q.shape[1])
    places = x.softmax(dim=1) @ leaves[2], x.logsumexp(dim=1)
    any_of = [torch.zeros_like(x, requires_grad=True) for x in places]
    gradients = torch.autograd.grad(places, leaves, any_of, create_graph=True)
    return *places, *torch.autograd.grad(gradients, any_of, (q_dot, k_dot, v_dot))
""",
    "torch's derivative": """
def moving_attention(q, k, v, q_dot, k_dot, v_dot, C, causal):
    def formula(q, k, v):
        x = q @ k.T / math.sqrt(q.shape[1])
        return x.softmax(dim=1) @ v, x.logsumexp(dim=1)

    (out, lse), (out_dot, lse_dot) = torch.func.jvp(formula, (q, k, v), (q_dot, k_dot, v_dot))
    return out, lse, out_dot, lse_dot
""",
    "right, but all scores at once": """
def moving_attention(q, k, v, q_dot, k_dot, v_dot, C, causal):
    (T, D), S = q.shape, len(k)
    x, x_dot = q @ k.T / math.sqrt(D), (q_dot @ k.T + q @ k_dot.T) / math.sqrt(D)
    if causal:
        x = x.masked_fill(torch.arange(S) > torch.arange(T)[:, None] + S - T, -math.inf)
    p = x.softmax(dim=1).nan_to_num()
    lse_dot, out = (p * x_dot).sum(dim=1), p @ v
    return out, x.logsumexp(dim=1), (p * x_dot) @ v + p @ v_dot - lse_dot[:, None] * out, lse_dot
""",
    "differences of nearby results": """
def moving_attention(q, k, v, q_dot, k_dot, v_dot, C, causal):
    def formula(q, k, v):
        (T, D), S = q.shape, len(k)
        m = torch.full((T, 1), -math.inf, dtype=q.dtype)
        d, u = torch.zeros_like(m), torch.zeros_like(q)
        for first in range(0, S, C):
            end = min(first + C, S)
            x = q @ k[first:end].T / math.sqrt(D)
            if causal:
                hide = torch.arange(first, end) > torch.arange(T)[:, None] + S - T
                x = x.masked_fill(hide, -math.inf)
            new = torch.maximum(m, x.amax(dim=1, keepdim=True))
            shift = new.masked_fill(new == -math.inf, 0.0)
            w, factor = (x - shift).exp(), (m - shift).exp()
            d = factor * d + w.sum(dim=1, keepdim=True)
            u, m = factor * u + w @ v[first:end], new
        return u / d.masked_fill(d == 0, 1.0), (m + d.log())[:, 0]

    h = 1e-5
    out, lse = formula(q, k, v)
    more = formula(q + h * q_dot, k + h * k_dot, v + h * v_dot)
    less = formula(q - h * q_dot, k - h * k_dot, v - h * v_dot)
    moved = [(a - b) / (2 * h) for a, b in zip(more, less)]
    return out, lse, moved[0], moved[1].nan_to_num()
""",
    "taken from the package": """
from companion.flash import flash_attention as moving_attention
""",
}
WRONG["memory_traffic"]["taken from the package"] = """
from companion.flash import hbm_bytes

def traffic(n, width, sram_bytes, element_bytes):
    return tuple(
        hbm_bytes(n, width, sram_bytes=sram_bytes, element_bytes=element_bytes, algorithm=name)
        for name in ("naive", "tiled")
    )

def least_sram(n, width, element_bytes, factor):
    return 0
"""
WRONG["moments"]["taken from the package"] = """
from companion.flash import merge_partials as merge_moments
"""
