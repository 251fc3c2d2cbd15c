"""Plausible wrong answers to `course/exercises/source/flash`: task -> {mistake: code}."""

WRONG = {
    "online_normaliser": {
        "old sum not rescaled": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        m = torch.maximum(m, x.amax(dim=1))
        shift = m.masked_fill(m == -math.inf, 0.0)
        d = d + (x - shift[:, None]).exp().sum(dim=1)
    return m, d
""",
        "rescaled the wrong way": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.amax(dim=1))
        shift = new.masked_fill(new == -math.inf, 0.0)
        factor = torch.where(d > 0, (shift - m).exp(), torch.zeros_like(d))
        d = d * factor + (x - shift[:, None]).exp().sum(dim=1)
        m = new
    return m, d
""",
        "nan where all is masked so far": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.amax(dim=1))
        d = d * (m - new).exp() + (x - new[:, None]).exp().sum(dim=1)
        m = new
    return m, d
""",
        "nan only while the old sum is empty": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.amax(dim=1))
        factor = torch.where(m == -math.inf, torch.zeros_like(d), (m - new).exp())
        d = d * factor + (x - new[:, None]).exp().sum(dim=1)
        m = new
    return m, d
""",
        "the largest score starts at 0": """
def online_normaliser(blocks, rows):
    m = torch.zeros(rows, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.amax(dim=1))
        d = d * (m - new).exp() + (x - new[:, None]).exp().sum(dim=1)
        m = new
    return m, d
""",
        "a finite number in place of -inf": """
def online_normaliser(blocks, rows):
    lowest = -10000.0
    m = torch.full((rows,), lowest, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.amax(dim=1))
        d = d * (m - new).exp() + (x - new[:, None]).exp().sum(dim=1)
        m = new
    return m.masked_fill(d == 0, -math.inf), d
""",
        "a row counts as masked when its last block is": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.amax(dim=1))
        shift = new.masked_fill(new == -math.inf, 0.0)
        d = d * (m - shift).exp() + (x - shift[:, None]).exp().sum(dim=1)
        m = new
        d = d.masked_fill(x.amax(dim=1) == -math.inf, 0.0)
    return m, d
""",
        "nothing subtracted": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    total = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        m = torch.maximum(m, x.amax(dim=1))
        total = total + x.exp().sum(dim=1)
    return m, torch.where(m == -math.inf, 0.0, total / m.exp())
""",
        "all blocks kept": """
def online_normaliser(blocks, rows):
    x = torch.cat(list(blocks), dim=1)
    m = x.amax(dim=1)
    shift = m.masked_fill(m == -math.inf, 0.0)
    return m, (x - shift[:, None]).exp().sum(dim=1)
""",
        "one maximum for all rows": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    d = torch.zeros(rows, dtype=torch.float64)
    for x in blocks:
        new = torch.maximum(m, x.max())
        shift = new.masked_fill(new == -math.inf, 0.0)
        d = d * (m - shift).exp() + (x - shift[:, None]).exp().sum(dim=1)
        m = new
    return m, d
""",
        "the log-sum-exp in place of d": """
def online_normaliser(blocks, rows):
    m = torch.full((rows,), -math.inf, dtype=torch.float64)
    lse = torch.full((rows,), -math.inf, dtype=torch.float64)
    for x in blocks:
        m = torch.maximum(m, x.amax(dim=1))
        lse = torch.logaddexp(lse, x.logsumexp(dim=1))
    return m, lse
""",
        "taken from the package": """
from companion.flash import online_softmax as online_normaliser
""",
    },
    "merge_two": {
        "plain mean of the outputs": """
def merge_two(out_a, lse_a, out_b, lse_b):
    return (out_a + out_b) / 2, torch.logaddexp(lse_a, lse_b)
""",
        "outputs added": """
def merge_two(out_a, lse_a, out_b, lse_b):
    return out_a + out_b, torch.logaddexp(lse_a, lse_b)
""",
        "weighed by the log-sum-exp itself": """
def merge_two(out_a, lse_a, out_b, lse_b):
    share = (lse_a / (lse_a + lse_b))[:, None]
    return share * out_a + (1 - share) * out_b, torch.logaddexp(lse_a, lse_b)
""",
        "logarithms added": """
def merge_two(out_a, lse_a, out_b, lse_b):
    share = torch.sigmoid(lse_a - lse_b)[:, None]
    return share * out_a + (1 - share) * out_b, lse_a + lse_b
""",
        "the larger log-sum-exp": """
def merge_two(out_a, lse_a, out_b, lse_b):
    share = torch.sigmoid(lse_a - lse_b)[:, None]
    return share * out_a + (1 - share) * out_b, torch.maximum(lse_a, lse_b)
""",
        "shares exchanged": """
def merge_two(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    shift = lse.masked_fill(lse == -math.inf, 0.0)
    a, b = (lse_a - shift).exp()[:, None], (lse_b - shift).exp()[:, None]
    return b * out_a + a * out_b, lse
""",
        "overflow": """
def merge_two(out_a, lse_a, out_b, lse_b):
    a, b = lse_a.exp(), lse_b.exp()
    total = a + b
    safe = total.masked_fill(total == 0, 1.0)[:, None]
    return (a[:, None] * out_a + b[:, None] * out_b) / safe, total.log()
""",
        "underflow": """
def merge_two(out_a, lse_a, out_b, lse_b):
    a, b = (lse_a - 1000).exp(), (lse_b - 1000).exp()
    total = a + b
    safe = total.masked_fill(total == 0, 1.0)[:, None]
    return (a[:, None] * out_a + b[:, None] * out_b) / safe, 1000 + total.log()
""",
        "nan where nothing is seen": """
def merge_two(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    a, b = (lse_a - lse).exp()[:, None], (lse_b - lse).exp()[:, None]
    return a * out_a + b * out_b, lse
""",
        "a finite number in place of -inf": """
def merge_two(out_a, lse_a, out_b, lse_b):
    lse_a, lse_b = lse_a.clamp(min=-1e4), lse_b.clamp(min=-1e4)
    m = torch.maximum(lse_a, lse_b)
    a, b = (lse_a - m).exp()[:, None], (lse_b - m).exp()[:, None]
    lse = m + (a + b)[:, 0].log()
    return (a * out_a + b * out_b) / (a + b), lse.masked_fill(lse < -9999, -math.inf)
""",
        "nothing wherever one part is blind": """
def merge_two(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    a, b = (lse_a - lse).exp()[:, None], (lse_b - lse).exp()[:, None]
    seen = (lse_a > -math.inf) & (lse_b > -math.inf)
    return torch.where(seen[:, None], a * out_a + b * out_b, 0.0), lse
""",
        "first output changed in place": """
def merge_two(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    shift = lse.masked_fill(lse == -math.inf, 0.0)
    out_a *= (lse_a - shift).exp()[:, None]
    out_a += (lse_b - shift).exp()[:, None] * out_b
    return out_a, lse
""",
        "shares along the wrong axis": """
def merge_two(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    shift = lse.masked_fill(lse == -math.inf, 0.0)
    return (lse_a - shift).exp() * out_a + (lse_b - shift).exp() * out_b, lse
""",
        "taken from the package": """
from companion.flash import merge_partials

def merge_two(out_a, lse_a, out_b, lse_b):
    return merge_partials([out_a, out_b], [lse_a, lse_b])
""",
    },
}

# One pass over the keys, right as it stands; each mistake below changes one place of it.
ONE_PASS = """
def one_pass_attention(q, k, v, block, causal):
    (T, D), S = q.shape, len(k)
    q = q / math.sqrt(D)
    position = torch.arange(T)[:, None] + S - T
    m = torch.full((T, 1), -math.inf, dtype=q.dtype)
    d, total = torch.zeros_like(m), torch.zeros_like(q)
    for first in range(0, S, block):
        end = min(first + block, S)
        s = q @ k[first:end].T
        if causal:
            s = s.masked_fill(torch.arange(first, end) > position, -math.inf)
        new = torch.maximum(m, s.amax(dim=1, keepdim=True))
        shift = new.masked_fill(new == -math.inf, 0.0)
        p, factor = (s - shift).exp(), (m - shift).exp()
        d = factor * d + p.sum(dim=1, keepdim=True)
        total = factor * total + p @ v[first:end]
        m = new
    lse = (m + d.log())[:, 0]
    return total / d.masked_fill(d == 0, 1.0), lse
"""

# The weights of a tile from the log-sum-exp, and the three products; right as it stands.
ONE_TILE = """
def tile_gradients(q, k, v, grad_out, lse, delta, visible, scale):
    s = (scale * q @ k.T).masked_fill(~visible, -math.inf)
    lse = lse.masked_fill(lse == -math.inf, 0.0)
    p = (s - lse[:, None]).exp()
    grad_s = p * (grad_out @ v.T - delta[:, None])
    return scale * grad_s @ k, scale * grad_s.T @ q, p.T @ grad_out
"""

# The three kinds of tiles from the corners; right as it stands.
MAP = """
def tile_map(queries, keys, block_T, block_S, window=None):
    rows = []
    for i in range(0, queries, block_T):
        first_p = i + keys - queries
        last_p = min(i + block_T, queries) - 1 + keys - queries
        row = []
        for j in range(0, keys, block_S):
            last_j = min(j + block_S, keys) - 1
            low, high = first_p - last_j, last_p - j
            limit = math.inf if window is None else window - 1
            skipped = high < 0 or low > limit
            full = low >= 0 and high <= limit
            row.append(0 if skipped else 2 if full else 1)
        rows.append(row)
    return torch.tensor(rows)
"""

# Both counts, and the search for the smallest memory; right as it stands.
TRAFFIC = """
def traffic(n, width, sram_bytes, element_bytes):
    B = min(n, sram_bytes // (4 * width * element_bytes))
    tiles = -(-n // B)
    naive = 4 * n * width + 4 * n * n
    tiled = 2 * n * width + tiles * 2 * n * width
    return naive * element_bytes, tiled * element_bytes


def least_sram(n, width, element_bytes, factor):
    for B in range(1, n + 1):
        room = 4 * B * width * element_bytes
        naive, tiled = traffic(n, width, room, element_bytes)
        if naive >= factor * tiled:
            return room
    return math.inf
"""


def with_one_change(code, old, new):
    """The code with one mistake in it."""
    if code.count(old) != 1:
        raise ValueError(f"the place to change must occur once, {old!r} occurs {code.count(old)}x")
    return code.replace(old, new)


CHANGES = {
    "one_pass_attention": {
        "not scaled by the width": ("q = q / math.sqrt(D)", "q = q / 1"),
        "divided by the width, not its root": ("q / math.sqrt(D)", "q / D"),
        "the queries scaled in place": ("q = q / math.sqrt(D)", "q /= math.sqrt(D)"),
        "causal aligned top left": ("[:, None] + S - T", "[:, None]"),
        "causal aligned the other way round": ("[:, None] + S - T", "[:, None] + T - S"),
        "causal hides the own position": ("end) > position", "end) >= position"),
        "causal within the block": ("torch.arange(first, end) >", "torch.arange(end - first) >"),
        "causal ignored": ("if causal:", "if False:"),
        "the last block left out": ("range(0, S, block)", "range(0, max(S - block + 1, 1), block)"),
        "nan for blind queries": ("new.masked_fill(new == -math.inf, 0.0)", "new"),
        "nan after the division": ("d.masked_fill(d == 0, 1.0)", "d"),
        "masked by a finite number": ("position, -math.inf)", "position, -1e9)"),
        "the largest score starts at 0": ("torch.full((T, 1), -math.inf", "torch.full((T, 1), 0.0"),
        "values not rescaled": ("factor * total", "total"),
        "normaliser not rescaled": ("factor * d", "d"),
        "normalised in every block": ("p @ v[first:end]", "p @ v[first:end] / d"),
        "never normalised": ("total / d.masked_fill(d == 0, 1.0)", "total"),
        "log-sum-exp in base two": ("d.log()", "d.log2()"),
        "log-sum-exp without its maximum": ("(m + d.log())", "(d.log())"),
        "the normaliser in place of its logarithm": ("(m + d.log())", "(m + d)"),
        "log-sum-exp forgotten": (", lse\n", "\n"),
        "a mask of all queries and keys": (
            "    for first in",
            "    mask = torch.ones(T, S, dtype=torch.bool)\n    for first in",
        ),
        "scores computed twice": (
            "new = torch.maximum(m, s.amax(dim=1, keepdim=True))",
            "new = torch.maximum(m, s.amax(dim=1, keepdim=True))\n        q @ k[first:end].T",
        ),
    },
    "tile_gradients": {
        "softmax of the tile": ("(s - lse[:, None]).exp()", "s.softmax(dim=1).nan_to_num()"),
        "delta of the tile": (
            "delta[:, None])",
            "(p * (grad_out @ v.T)).sum(dim=1, keepdim=True))",
        ),
        "delta forgotten": (" - delta[:, None]", ""),
        "delta added": ("- delta[:, None]", "+ delta[:, None]"),
        "mask ignored": (".masked_fill(~visible, -math.inf)", ""),
        "multiplied by the mask: inf times 0": (
            "masked_fill(~visible, -math.inf)\n    lse = lse.masked_fill(lse == -math.inf, 0.0)\n"
            "    p = (s - lse[:, None]).exp()",
            "clone()\n    p = (s - lse[:, None]).exp() * visible",
        ),
        "nan for blind queries": ("lse.masked_fill(lse == -math.inf, 0.0)", "lse"),
        "mask turned round": ("~visible", "visible"),
        "scale forgotten in the gradients": (
            "scale * grad_s @ k, scale * grad_s.T @ q",
            "grad_s @ k, grad_s.T @ q",
        ),
        "scale in the gradient of q only": ("scale * grad_s.T @ q", "grad_s.T @ q"),
        "scale forgotten in the scores": ("(scale * q @ k.T)", "(q @ k.T)"),
        "scale twice": ("scale * grad_s @ k", "scale**2 * grad_s @ k"),
        "log-sum-exp in base two": ("(s - lse[:, None])", "(s - lse[:, None] / math.log(2))"),
        "gradient of the values through dS": ("p.T @ grad_out", "grad_s.T @ grad_out"),
        "the weights forgotten in dS": ("p * (grad_out @ v.T -", "(grad_out @ v.T -"),
        "another order": (
            "return scale * grad_s @ k, scale * grad_s.T @ q, p.T @ grad_out",
            "return scale * grad_s.T @ q, p.T @ grad_out, scale * grad_s @ k",
        ),
    },
    "tile_map": {
        "aligned top left": (
            "first_p = i + keys - queries\n        last_p = min(i + block_T, queries) - 1 + keys "
            "- queries",
            "first_p = i\n        last_p = min(i + block_T, queries) - 1",
        ),
        "keys beyond the end counted": ("min(j + block_S, keys) - 1", "j + block_S - 1"),
        "queries beyond the end counted": ("min(i + block_T, queries) - 1", "i + block_T - 1"),
        "one key too many per tile": ("min(j + block_S, keys) - 1", "min(j + block_S, keys)"),
        "window one too wide": ("else window - 1", "else window"),
        "window ignored": ("math.inf if window is None else window - 1", "math.inf"),
        "window skips nothing": ("high < 0 or low > limit", "high < 0"),
        "window needs no mask": ("low >= 0 and high <= limit", "low >= 0"),
        "skipped by the first query": ("high < 0", "first_p < j"),
        "full by the last query": ("full = low >= 0", "full = last_p >= last_j"),
        "the diagonal of equal tiles": (
            "low, high = first_p - last_j, last_p - j",
            "low = high = i // block_T - j // block_S",
        ),
        "blind queries masked, not skipped": ("high < 0 or", "last_p >= 0 and high < 0 or"),
    },
    "memory_traffic": {
        "numbers, not bytes": ("naive * element_bytes, tiled * element_bytes", "naive, tiled"),
        "the matrices moved twice, not four times": ("4 * n * n", "2 * n * n"),
        "only the inputs": ("4 * n * width + 4 * n * n", "3 * n * width + 4 * n * n"),
        "tiles rounded down": ("-(-n // B)", "max(n // B, 1)"),
        "tiles not rounded": ("-(-n // B)", "n / B"),
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
        "one tile too many where B divides N": ("-(-n // B)", "(n // B + 1)"),
        "more than factor, not at least": ("naive >= factor", "naive > factor"),
        "the largest memory tried": ("range(1, n + 1)", "range(n, 0, -1)"),
        "rows in place of bytes": ("return room", "return B"),
        "the last size not tried": ("range(1, n + 1)", "range(1, n)"),
        "no memory is large enough: 0": ("return math.inf", "return 0"),
    },
}
RIGHT = {
    "one_pass_attention": ONE_PASS,
    "tile_gradients": ONE_TILE,
    "tile_map": MAP,
    "memory_traffic": TRAFFIC,
}
for task, changes in CHANGES.items():
    WRONG[task] = {
        mistake: with_one_change(RIGHT[task], old, new) for mistake, (old, new) in changes.items()
    }
WRONG["one_pass_attention"] |= {
    "right, but all scores at once": """
def one_pass_attention(q, k, v, block, causal):
    scores = q @ k.T / math.sqrt(q.shape[1])
    if causal:
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(len(k) - len(q) + 1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(dim=1).nan_to_num() @ v, scores.logsumexp(dim=1)
""",
    "torch's own, aligned top left": """
def one_pass_attention(q, k, v, block, causal):
    out = torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=causal
    )[0]
    m = torch.full((len(q),), -math.inf, dtype=q.dtype)
    for first in range(0, len(k), block):
        scores = q @ k[first : first + block].T / math.sqrt(q.shape[1])
        m = torch.logaddexp(m, scores.logsumexp(dim=1))
    return out, m
""",
    "taken from the package": """
from companion.flash import flash_attention

def one_pass_attention(q, k, v, block, causal):
    out, lse = flash_attention(q[None, None], k[None, None], v[None, None], causal=causal,
                               return_lse=True)
    return out[0, 0], lse[0, 0]
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
