"""Plausible wrong answers to `course/exercises/source/vqvae`: task -> {mistake: code}."""

NEAREST_WEIGHTED = """
def nearest_weighted(z, weights, codebook):
    scores = weights @ codebook.square().T - 2 * (weights * z) @ codebook.T
    indices = scores.argmin(1)
    distances = (weights * (z - codebook[indices]).square()).sum(1)
    return indices, distances
"""
ALL_DIFFERENCES = """
def nearest_weighted(z, weights, codebook):
    scores = (weights[:, None] * (z[:, None] - codebook).square()).sum(2)
    return scores.argmin(1), scores.amin(1)
"""
CODED_BITS = """
def coded_bits(known, images, num_codes, alpha):
    one_hot = torch.nn.functional.one_hot
    counts = one_hot(known, num_codes).sum(0).double()
    p = (counts + alpha) / (len(known) + num_codes * alpha)
    bits = -p[torch.arange(known.shape[1]), images].log2().sum(1)
    own = one_hot(images, num_codes).sum(0).double() / max(len(images), 1)
    perplexities = torch.special.entr(own).sum(1).exp()
    return bits, perplexities.log2().sum()
"""
WEIGHTED_UPDATE = """
def weighted_update(cluster_size, embed_avg, z, indices, weights, decay, epsilon):
    if weights.sum() > 0:
        seen = weights > 0
        counts = torch.zeros_like(cluster_size).index_add(0, indices[seen], weights[seen])
        vectors = weights[seen, None] * z[seen]
        sums = torch.zeros_like(embed_avg).index_add(0, indices[seen], vectors)
        cluster_size = decay * cluster_size + (1 - decay) * counts
        embed_avg = decay * embed_avg + (1 - decay) * sums
    total = cluster_size.sum()
    smoothed = (cluster_size + epsilon) / (total + len(cluster_size) * epsilon) * total
    return cluster_size.clone(), embed_avg.clone(), embed_avg / smoothed[:, None]
"""
RESIDUAL_GRADIENTS = """
def residual_gradients(z, target, matrix, first, second, beta):
    left, total, of_codes, commitment = z, torch.zeros_like(z), [], torch.zeros_like(z)
    for codebook in (first, second):
        scores = codebook.square().sum(1) - 2 * left @ codebook.T
        indices = scores.argmin(1)
        codes = codebook[indices]
        pull = 2 / z.numel() * (left - codes)
        of_codes.append(torch.zeros_like(codebook).index_add(0, indices, -pull))
        commitment = commitment + beta * pull
        left, total = left - codes, total + codes
    slope = 2 / target.numel() * (total @ matrix - target)
    return slope @ matrix.T + commitment, *of_codes, total.T @ slope
"""
BY_AUTOGRAD = """
def residual_gradients(z, target, matrix, first, second, beta):
    leaves = [x.clone().requires_grad_() for x in (z, first, second, matrix)]
    left, total, loss = leaves[0], 0, 0
    for codebook in leaves[1:3]:
        distances = (left.detach()[:, None] - codebook.detach()).square().sum(2)
        codes = codebook[distances.argmin(1)]
        loss = loss + (codes - left.detach()).square().mean()
        loss = loss + beta * (left - codes.detach()).square().mean()
        left, total = left - codes.detach(), total + codes.detach()
    decoded = (leaves[0] + (total - leaves[0]).detach()) @ leaves[3]
    return torch.autograd.grad(loss + (decoded - target).square().mean(), leaves)
"""
PRODUCT_QUANTIZE = """
def product_quantize(z, codebooks):
    numbers, base, chosen = torch.zeros(len(z), dtype=torch.int64), 1, []
    pieces = z.split([codes.shape[1] for codes in codebooks], dim=1)
    for piece, codes in zip(pieces, codebooks, strict=True):
        index = (piece[:, None] - codes).square().sum(2).argmin(1)
        numbers, base = numbers + base * index, base * len(codes)
        chosen.append(codes[index])
    return numbers, torch.cat(chosen, dim=1)
"""
TABLE_DISTANCES = """
def table_distances(queries, numbers, codebooks):
    distances = torch.zeros(len(queries), len(numbers), dtype=queries.dtype)
    pieces = queries.split([codes.shape[1] for codes in codebooks], dim=1)
    for piece, codes in zip(pieces, codebooks, strict=True):
        of_codes = (piece[:, None] - codes).square().sum(2)
        distances = distances + of_codes[:, numbers % len(codes)]
        numbers = numbers // len(codes)
    return distances
"""
DECODED_IN_PIECES = """
def table_distances(queries, numbers, codebooks):
    distances = torch.zeros(len(queries), len(numbers), dtype=queries.dtype)
    pieces = queries.split([codes.shape[1] for codes in codebooks], dim=1)
    for piece, codes in zip(pieces, codebooks, strict=True):
        stored = codes[numbers % len(codes)]
        numbers = numbers // len(codes)
        for query, row in zip(piece, distances, strict=True):
            row += (query - stored).square().sum(1)
    return distances
"""
DECODED = """
def table_distances(queries, numbers, codebooks):
    chosen = []
    for codes in codebooks:
        chosen.append(codes[numbers % len(codes)])
        numbers = numbers // len(codes)
    stored = torch.cat(chosen, dim=1)
    return torch.stack([(query - stored).square().sum(1) for query in queries])
"""
BEST_ON_A_LINE = """
def best_on_a_line(x, most, price):
    n = len(x)
    ordered = x.sort().values
    y = ordered - ordered.mean()
    zero = torch.zeros(1, dtype=x.dtype)
    sums, squares = torch.cat([zero, y.cumsum(0)]), torch.cat([zero, y.square().cumsum(0)])
    place = torch.arange(n + 1)
    size = (place - place[:, None]).clamp(min=1)
    error = squares - squares[:, None] - (sums - sums[:, None]).square() / size
    cell = error.clamp(min=0) + price * size * (n / size).log2()
    cell[place[:, None] >= place] = math.inf
    best, begins = cell[0].clone(), [torch.zeros_like(place)]
    ends = [best]
    for _ in range(most - 1):
        best, begin = (best[:, None] + cell).min(0)
        ends.append(best)
        begins.append(begin)
    cells = min(range(most), key=lambda k: ends[k][n].item())
    cost, cuts = ends[cells][n] / n, [n]
    for k in range(cells, -1, -1):
        cuts.append(int(begins[k][cuts[-1]]))
    counts = torch.tensor(cuts[::-1]).diff()
    return cost, torch.stack([part.mean() for part in ordered.split(counts.tolist())]), counts
"""
# What three ways to look for good cells share: the cost of cells that they have found.
WITH_COST = """
def with_cost(x, parts, price):
    parts = sorted((part for part in parts if part), key=min)
    means = [sum(part) / len(part) for part in parts]
    cost = 0.0
    for part, mean in zip(parts, means, strict=True):
        bits = len(part) * math.log2(len(x) / len(part))
        cost += sum((v - mean) ** 2 for v in part) + price * bits
    counts = torch.tensor([len(part) for part in parts])
    return cost / len(x), torch.tensor(means, dtype=torch.float64), counts
"""
LLOYD = (
    WITH_COST
    + """
def best_on_a_line(x, most, price):
    values = sorted(x.tolist())
    n = len(values)
    k = min(most, n)
    parts = [values[i * n // k : (i + 1) * n // k] for i in range(k)]
    for _ in range(100):
        parts = [part for part in parts if part]
        means = [sum(part) / len(part) for part in parts]
        bits = [math.log2(n / len(part)) for part in parts]
        cells = [[] for _ in parts]
        for v in values:
            costs = [(v - m) ** 2 + price * b for m, b in zip(means, bits, strict=True)]
            cells[costs.index(min(costs))].append(v)
        parts = cells
    return with_cost(x, parts, price)
"""
)
CUT_AGAIN = (
    WITH_COST
    + """
def best_on_a_line(x, most, price):
    parts = [sorted(x.tolist())]
    best = with_cost(x, parts, price)
    for _ in range(most - 1):
        ways = [
            [*parts[:i], part[:cut], part[cut:], *parts[i + 1 :]]
            for i, part in enumerate(parts)
            for cut in range(1, len(part))
        ]
        if not ways:
            break
        costs = [with_cost(x, way, price)[0] for way in ways]
        if min(costs) >= best[0]:
            break
        parts = ways[costs.index(min(costs))]
        best = with_cost(x, parts, price)
    return best
"""
)
MERGE = (
    WITH_COST
    + """
def best_on_a_line(x, most, price):
    parts = [[v] for v in sorted(x.tolist())]
    while len(parts) > 1:
        ways = [
            [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]] for i in range(len(parts) - 1)
        ]
        costs = [with_cost(x, way, price)[0] for way in ways]
        if len(parts) <= most and min(costs) > with_cost(x, parts, price)[0]:
            break
        parts = ways[costs.index(min(costs))]
    return with_cost(x, parts, price)
"""
)
GAPS = (
    WITH_COST
    + """
def best_on_a_line(x, most, price):
    values = sorted(x.tolist())
    order = sorted(range(1, len(values)), key=lambda i: values[i - 1] - values[i])
    best = (math.inf,)
    for k in range(min(most, len(values))):
        cuts = [0, *sorted(order[:k]), len(values)]
        parts = [values[a:b] for a, b in itertools.pairwise(cuts)]
        best = min(best, with_cost(x, parts, price), key=lambda found: found[0])
    return best
"""
)
PARTS_ALIKE = (
    WITH_COST
    + """
def best_on_a_line(x, most, price):
    values, best = sorted(x.tolist()), (math.inf,)
    for k in range(1, most + 1):
        parts = [values[i * len(values) // k : (i + 1) * len(values) // k] for i in range(k)]
        best = min(best, with_cost(x, parts, price), key=lambda found: found[0])
    return best
"""
)


def instead(code, *changes):
    """Code with some of its lines changed, each of which it must have once."""
    for right, wrong in zip(changes[::2], changes[1::2], strict=True):
        assert code.count(right) == 1, right
        code = code.replace(right, wrong)
    return code


def line(*changes):
    return instead(BEST_ON_A_LINE, *changes)


WRONG = {
    "nearest_weighted": {
        "no weights": instead(
            NEAREST_WEIGHTED,
            "weights @ codebook.square().T - 2 * (weights * z)",
            "codebook.square().sum(1) - 2 * z",
            "(weights * (z - codebook[indices]).square())",
            "(z - codebook[indices]).square()",
        ),
        "weights for the distance and not for the choice": instead(
            NEAREST_WEIGHTED,
            "weights @ codebook.square().T - 2 * (weights * z)",
            "codebook.square().sum(1) - 2 * z",
        ),
        "the codes' squares without weights": instead(
            NEAREST_WEIGHTED, "weights @ codebook.square().T", "codebook.square().sum(1)"
        ),
        "the product without weights": instead(NEAREST_WEIGHTED, "(weights * z)", "z"),
        "squared weights": instead(
            NEAREST_WEIGHTED, "    scores", "    weights = weights.square()\n    scores"
        ),
        "square roots of the weights": instead(
            NEAREST_WEIGHTED, "    scores", "    weights = weights.sqrt()\n    scores"
        ),
        "codes and vectors scaled by the mean weights": """
def nearest_weighted(z, weights, codebook):
    scale = weights.sum(0) / max(len(weights), 1)
    scores = codebook.square() @ scale - 2 * (scale * z) @ codebook.T
    indices = scores.argmin(1)
    return indices, (scale * (z - codebook[indices]).square()).sum(1)
""",
        "weights with the sum 1": instead(
            NEAREST_WEIGHTED,
            "    scores",
            "    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)\n    scores",
        ),
        "a mean over the coordinates": instead(NEAREST_WEIGHTED, ".sum(1)", ".mean(1)"),
        "the distance and not its square": instead(NEAREST_WEIGHTED, ".sum(1)", ".sum(1).sqrt()"),
        "absolute differences": instead(
            NEAREST_WEIGHTED,
            "weights @ codebook.square().T - 2 * (weights * z) @ codebook.T",
            "torch.stack([(weights * (z - code).abs()).sum(1) for code in codebook], 1)",
        ),
        "the farthest code": instead(NEAREST_WEIGHTED, "argmin", "argmax"),
        "one product, not two": instead(NEAREST_WEIGHTED, "- 2 *", "-"),
        "of equal ones the last": instead(
            NEAREST_WEIGHTED, "scores.argmin(1)", "len(codebook) - 1 - scores.flip(1).argmin(1)"
        ),
        "distances from the scores": instead(
            NEAREST_WEIGHTED,
            "(weights * (z - codebook[indices]).square()).sum(1)",
            "scores.amin(1) + (weights * z.square()).sum(1)",
        ),
        "the least score as distance": instead(
            NEAREST_WEIGHTED,
            "(weights * (z - codebook[indices]).square()).sum(1)",
            "scores.amin(1)",
        ),
        "all differences": ALL_DIFFERENCES,
        "a loop over the codes": instead(
            NEAREST_WEIGHTED,
            "weights @ codebook.square().T - 2 * (weights * z) @ codebook.T",
            "torch.stack([(weights * (z - code).square()).sum(1) for code in codebook], 1)",
        ),
        "all scaled codes": """
def nearest_weighted(z, weights, codebook):
    root = weights.sqrt()
    scores = torch.cdist((root * z)[:, None], root[:, None] * codebook)[:, 0].square()
    return scores.argmin(1), scores.amin(1)
""",
        "no code where nothing counts": instead(
            NEAREST_WEIGHTED,
            "scores.argmin(1)\n",
            "torch.where(weights.sum(1) > 0, scores.argmin(1), len(codebook) - 1)\n",
        ),
        "the codes in place of their numbers": instead(
            NEAREST_WEIGHTED, "return indices,", "return codebook[indices],"
        ),
        "only the indices": instead(
            NEAREST_WEIGHTED, "return indices, distances", "return indices"
        ),
        "taken from the package": """
from companion.vqvae import nearest_code as nearest_weighted
""",
    },
    "coded_bits": {
        "nats": instead(CODED_BITS, "images].log2()", "images].log()"),
        "ideal in nats": instead(CODED_BITS, "perplexities.log2()", "perplexities.log()"),
        "one table for all places": instead(
            CODED_BITS,
            "sum(0).double()\n    p",
            "sum(0).double()\n    counts = counts.mean(0, keepdim=True).expand_as(counts)\n    p",
        ),
        "one perplexity for all places": instead(
            CODED_BITS,
            "torch.special.entr(own).sum(1).exp()",
            "torch.special.entr(own.mean(0)).sum().exp()",
            "perplexities.log2().sum()",
            "len(own) * perplexities.log2()",
        ),
        "the sum of the perplexities": instead(
            CODED_BITS, "perplexities.log2().sum()", "perplexities.sum()"
        ),
        "the logarithm of the perplexities' sum": instead(
            CODED_BITS, "perplexities.log2().sum()", "perplexities.sum().log2()"
        ),
        "ideal for one place": instead(
            CODED_BITS, "perplexities.log2().sum()", "perplexities.log2().mean()"
        ),
        "bits for one place": instead(CODED_BITS, "log2().sum(1)", "log2().mean(1)"),
        "bits for one place after another": instead(CODED_BITS, "log2().sum(1)", "log2()"),
        "no smoothing": instead(
            CODED_BITS, "(counts + alpha) / (len(known) + num_codes * alpha)", "counts / len(known)"
        ),
        "alpha always 1": instead(CODED_BITS, "    counts", "    alpha = 1\n    counts"),
        "alpha above only": instead(CODED_BITS, "(len(known) + num_codes * alpha)", "len(known)"),
        "alpha once below": instead(CODED_BITS, "num_codes * alpha", "alpha"),
        "only codes that occur are smoothed": instead(
            CODED_BITS,
            "(counts + alpha) / (len(known) + num_codes * alpha)",
            "torch.where(counts > 0, counts + alpha, 0)"
            " / (len(known) + (counts > 0).sum(1, keepdim=True) * alpha)",
        ),
        "K is the number of codes seen": instead(
            CODED_BITS,
            "num_codes * alpha",
            "len(known.unique()) * alpha",
        ),
        "alpha for each image known": instead(
            CODED_BITS, "(counts + alpha)", "(counts + alpha * len(known))"
        ),
        "a small number against zeros": instead(
            CODED_BITS, "images].log2()", "images].clamp(1e-9).log2()"
        ),
        "codes without a word are free": instead(
            CODED_BITS, "images].log2()", "images].log2().nan_to_num(0, 0, 0)"
        ),
        "whole bits for each code": instead(CODED_BITS, "images].log2()", "images].log2().floor()"),
        "whole bits for each image": instead(CODED_BITS, "log2().sum(1)", "log2().floor().sum(1)"),
        "tables from the images to write": instead(
            CODED_BITS,
            "one_hot(known, num_codes)",
            "one_hot(images, num_codes)",
            "(len(known) + num",
            "(len(images) + num",
        ),
        "tables from all images": instead(
            CODED_BITS,
            "    counts",
            "    known = torch.cat([known, images])\n    counts",
        ),
        "ideal from the known images": instead(
            CODED_BITS,
            "one_hot(images, num_codes)",
            "one_hot(known, num_codes)",
            "max(len(images), 1)",
            "max(len(known), 1)",
        ),
        "ideal with smoothing": instead(
            CODED_BITS,
            "sum(0).double() / max(len(images), 1)",
            "sum(0).add(alpha).double() / (len(images) + num_codes * alpha)",
        ),
        "ideal is the mean of the bits": instead(
            CODED_BITS, "perplexities.log2().sum()", "bits.mean()"
        ),
        "NaN without an image to write": instead(CODED_BITS, "max(len(images), 1)", "len(images)"),
        "the mean over the images": instead(CODED_BITS, "return bits,", "return bits.mean(),"),
        "fixed lengths": instead(
            CODED_BITS,
            "-p[torch.arange(known.shape[1]), images].log2().sum(1)",
            "torch.full((len(images),), known.shape[1] * math.log2(num_codes))",
        ),
        "ideal with NaN for zeros": instead(
            CODED_BITS, "torch.special.entr(own).sum(1)", "-(own * own.log()).sum(1)"
        ),
    },
    "weighted_update": {
        "no weights": instead(
            WEIGHTED_UPDATE,
            "indices[seen], weights[seen])",
            "indices[seen], torch.ones_like(weights[seen]))",
            "weights[seen, None] * z[seen]",
            "z[seen]",
        ),
        "no weights in the counts": instead(
            WEIGHTED_UPDATE,
            "indices[seen], weights[seen])",
            "indices[seen], torch.ones_like(weights[seen]))",
        ),
        "no weights in the sums": instead(
            WEIGHTED_UPDATE, "weights[seen, None] * z[seen]", "z[seen]"
        ),
        "squared weights in the sums": instead(
            WEIGHTED_UPDATE, "weights[seen, None] * z", "weights[seen, None].square() * z"
        ),
        "weights with the sum 1": instead(
            WEIGHTED_UPDATE,
            "        seen =",
            "        weights = weights / weights.sum()\n        seen =",
        ),
        "weights with the mean 1": instead(
            WEIGHTED_UPDATE,
            "        seen =",
            "        weights = weights / weights.mean()\n        seen =",
        ),
        "NaN from padding": instead(
            WEIGHTED_UPDATE, "seen = weights > 0", "seen = torch.arange(len(weights))"
        ),
        "NaN is 0, infinity is large": instead(
            WEIGHTED_UPDATE,
            "seen = weights > 0",
            "seen = torch.arange(len(weights))",
            "* z[seen]",
            "* z[seen].nan_to_num()[:, :] + 0 * z.isinf()",
            "        sums",
            "        vectors[z.isinf()] = 1e308\n        sums",
        ),
        "what is finite was seen": instead(
            WEIGHTED_UPDATE,
            "weights.sum() > 0",
            "z.isfinite().all(1).any()",
            "seen = weights > 0",
            "seen = z.isfinite().all(1)",
        ),
        "an empty batch fades": instead(WEIGHTED_UPDATE, "weights.sum() > 0", "len(weights) > 0"),
        "a batch of nothing fades": instead(WEIGHTED_UPDATE, "weights.sum() > 0", "True"),
        "a weight of 0 counts as 1": instead(
            WEIGHTED_UPDATE,
            "    if weights",
            "    weights = torch.where(weights == 0, 1.0, weights)\n"
            "    z = z.nan_to_num(0, 0, 0)\n    if weights",
        ),
        "decay and its rest exchanged": instead(
            WEIGHTED_UPDATE, "    if weights", "    decay = 1 - decay\n    if weights"
        ),
        "the batch is added in full": instead(
            WEIGHTED_UPDATE, "+ (1 - decay) * counts", "+ counts", "+ (1 - decay) * sums", "+ sums"
        ),
        "means are averaged": instead(
            WEIGHTED_UPDATE,
            "(1 - decay) * sums",
            "(1 - decay) * sums / counts.clamp(min=1e-9)[:, None]",
        ),
        "codes without a vector do not fade": instead(
            WEIGHTED_UPDATE,
            "cluster_size = decay * cluster_size + (1 - decay) * counts",
            "cluster_size = torch.where("
            "counts > 0, decay * cluster_size + (1 - decay) * counts, cluster_size)",
            "embed_avg = decay * embed_avg + (1 - decay) * sums",
            "embed_avg = torch.where((counts > 0)[:, None], "
            "decay * embed_avg + (1 - decay) * sums, embed_avg)",
        ),
        "no smoothing": instead(
            WEIGHTED_UPDATE, "embed_avg / smoothed", "embed_avg / cluster_size"
        ),
        "epsilon is added and the total grows": instead(
            WEIGHTED_UPDATE,
            "(cluster_size + epsilon) / (total + len(cluster_size) * epsilon) * total",
            "cluster_size + epsilon",
        ),
        "epsilon once below": instead(WEIGHTED_UPDATE, "len(cluster_size) * epsilon", "epsilon"),
        "smoothed shares, not counts": instead(
            WEIGHTED_UPDATE, " * epsilon) * total", " * epsilon)"
        ),
        "at least epsilon": instead(
            WEIGHTED_UPDATE,
            "(cluster_size + epsilon) / (total + len(cluster_size) * epsilon) * total",
            "cluster_size.clamp(min=epsilon)",
        ),
        "the smoothed size is kept": instead(
            WEIGHTED_UPDATE, "return cluster_size.clone()", "return smoothed"
        ),
        "the codes times the smoothed size are kept": instead(
            WEIGHTED_UPDATE,
            "return cluster_size.clone(), embed_avg.clone()",
            "return cluster_size.clone(), embed_avg / smoothed[:, None] * cluster_size[:, None]",
        ),
        "the codes from before": """
def weighted_update(cluster_size, embed_avg, z, indices, weights, decay, epsilon):
    total = cluster_size.sum()
    smoothed = (cluster_size + epsilon) / (total + len(cluster_size) * epsilon) * total
    codebook = embed_avg / smoothed[:, None]
    if weights.sum() > 0:
        seen = weights > 0
        counts = torch.zeros_like(cluster_size).index_add(0, indices[seen], weights[seen])
        vectors = weights[seen, None] * z[seen]
        sums = torch.zeros_like(embed_avg).index_add(0, indices[seen], vectors)
        cluster_size = decay * cluster_size + (1 - decay) * counts
        embed_avg = decay * embed_avg + (1 - decay) * sums
    return cluster_size.clone(), embed_avg.clone(), codebook
""",
        "the total from before": instead(
            WEIGHTED_UPDATE,
            "    total = cluster_size.sum()\n",
            "",
            "    if weights",
            "    total = cluster_size.sum()\n    if weights",
        ),
        "in place": instead(
            WEIGHTED_UPDATE,
            "cluster_size = decay * cluster_size + (1 - decay) * counts",
            "cluster_size.mul_(decay).add_((1 - decay) * counts)",
            "embed_avg = decay * embed_avg + (1 - decay) * sums",
            "embed_avg.mul_(decay).add_((1 - decay) * sums)",
        ),
        "the given tensors themselves": instead(
            WEIGHTED_UPDATE, "cluster_size.clone(), embed_avg.clone()", "cluster_size, embed_avg"
        ),
        "one vector for each code": instead(
            WEIGHTED_UPDATE,
            "torch.zeros_like(cluster_size).index_add(0, indices[seen], weights[seen])",
            "torch.zeros_like(cluster_size).index_put((indices[seen],), weights[seen])",
            "torch.zeros_like(embed_avg).index_add(0, indices[seen], vectors)",
            "torch.zeros_like(embed_avg).index_put((indices[seen],), vectors)",
        ),
        "only the codes": instead(
            WEIGHTED_UPDATE, "return cluster_size.clone(), embed_avg.clone(), ", "return "
        ),
    },
    "residual_gradients": {
        "by autograd": BY_AUTOGRAD,
        "each level passes straight through": instead(
            RESIDUAL_GRADIENTS, "return slope @ matrix.T", "return 2 * slope @ matrix.T"
        ),
        "the slope at z": instead(
            RESIDUAL_GRADIENTS,
            "return slope @",
            "return 2 / target.numel() * (z @ matrix - target) @",
        ),
        "the decoder saw z": instead(RESIDUAL_GRADIENTS, "total.T @ slope", "z.T @ slope"),
        "the decoder saw the first level": instead(
            RESIDUAL_GRADIENTS,
            "    slope",
            "    total = first[(first.square().sum(1) - 2 * z @ first.T).argmin(1)]\n    slope",
        ),
        "no commitment": instead(RESIDUAL_GRADIENTS, "matrix.T + commitment", "matrix.T"),
        "commitment without beta": instead(RESIDUAL_GRADIENTS, "beta * pull", "pull"),
        "beta by the codes' term": instead(
            RESIDUAL_GRADIENTS, "beta * pull", "pull", "indices, -pull", "indices, -beta * pull"
        ),
        "beta by both": instead(
            RESIDUAL_GRADIENTS, "indices, -pull", "indices, -(1 + beta) * pull"
        ),
        "the codes' term pulls z, too": instead(
            RESIDUAL_GRADIENTS, "beta * pull", "(1 + beta) * pull"
        ),
        "only the last level commits": instead(
            RESIDUAL_GRADIENTS, "commitment = commitment + beta", "commitment = beta"
        ),
        "only the first level commits": instead(
            RESIDUAL_GRADIENTS,
            "commitment = commitment + beta * pull",
            "commitment = commitment + (beta * pull if codebook is first else 0)",
        ),
        "z is committed to the sum": instead(
            RESIDUAL_GRADIENTS,
            "    slope =",
            "    commitment = 2 * beta / z.numel() * (z - total)\n    slope =",
        ),
        "z is committed to the first code twice": instead(
            RESIDUAL_GRADIENTS,
            "    slope =",
            "    commitment = 2 * commitment - beta * pull\n    slope =",
        ),
        "the second level reaches the first codes": instead(
            RESIDUAL_GRADIENTS,
            "    slope =",
            "    chosen = (first.square().sum(1) - 2 * z @ first.T).argmin(1)\n"
            "    of_codes[0] = of_codes[0].index_add(0, chosen, -pull)\n    slope =",
        ),
        "the reconstruction reaches the codes": instead(
            RESIDUAL_GRADIENTS,
            "    return",
            "    of_codes[1] = of_codes[1].index_add(0, indices, slope @ matrix.T)\n    return",
        ),
        "the second level sees z": instead(
            RESIDUAL_GRADIENTS, "left, total = left - codes,", "left, total = left,"
        ),
        "the second level sees the first code": instead(
            RESIDUAL_GRADIENTS, "left, total = left - codes,", "left, total = codes,"
        ),
        "the other sign for the codes": instead(
            RESIDUAL_GRADIENTS, "indices, -pull", "indices, pull"
        ),
        "the mean over each cell": instead(
            RESIDUAL_GRADIENTS,
            "(0, indices, -pull))",
            "(0, indices, -pull)"
            " / torch.bincount(indices, minlength=len(codebook)).clamp(min=1)[:, None])",
        ),
        "one vector for each code": instead(
            RESIDUAL_GRADIENTS, "index_add(0, indices, -pull)", "index_put((indices,), -pull)"
        ),
        "sums for means": instead(
            RESIDUAL_GRADIENTS, "2 / z.numel() *", "2 *", "2 / target.numel() *", "2 *"
        ),
        "means over the vectors": instead(
            RESIDUAL_GRADIENTS, "2 / z.numel()", "2 / len(z)", "2 / target.numel()", "2 / len(z)"
        ),
        "one mean for all terms": instead(RESIDUAL_GRADIENTS, "target.numel()", "z.numel()"),
        "the 2 is lost": instead(
            RESIDUAL_GRADIENTS, "2 / z.numel()", "1 / z.numel()", "2 / target", "1 / target"
        ),
        "the mean over both levels": instead(RESIDUAL_GRADIENTS, "2 / z.numel()", "1 / z.numel()"),
        "the matrix's gradient on its side": instead(
            RESIDUAL_GRADIENTS, "total.T @ slope", "slope.T @ total"
        ),
        "three gradients": instead(RESIDUAL_GRADIENTS, ", total.T @ slope", ""),
        "the codes' gradients exchanged": instead(
            RESIDUAL_GRADIENTS, "*of_codes,", "*of_codes[::-1],"
        ),
    },
    "table_distances": {
        "the first piece counts most": instead(
            PRODUCT_QUANTIZE,
            "numbers, base = numbers + base * index, base * len(codes)",
            "numbers = numbers * len(codes) + index",
        )
        + TABLE_DISTANCES,
        "one base for all pieces": instead(
            PRODUCT_QUANTIZE, "base * len(codes)", "base * len(codebooks[0])"
        )
        + TABLE_DISTANCES,
        "the largest codebook as base": instead(
            PRODUCT_QUANTIZE, "base * len(codes)", "base * max(map(len, codebooks))"
        )
        + TABLE_DISTANCES,
        "numbers from 1 on": instead(PRODUCT_QUANTIZE, "base * index,", "base * (index + 1),")
        + TABLE_DISTANCES,
        "indices and no number": instead(
            PRODUCT_QUANTIZE,
            "numbers, base, chosen = torch.zeros(len(z), dtype=torch.int64), 1, []",
            "numbers, chosen = [], []",
            "numbers, base = numbers + base * index, base * len(codes)",
            "numbers.append(index)",
            "return numbers",
            "return torch.stack(numbers, 1)",
        )
        + TABLE_DISTANCES,
        "numbers as floats": instead(PRODUCT_QUANTIZE, "dtype=torch.int64", "dtype=torch.float64")
        + TABLE_DISTANCES,
        "numbers by way of floats": instead(
            PRODUCT_QUANTIZE,
            "dtype=torch.int64",
            "dtype=torch.float64",
            "return numbers",
            "return numbers.long()",
        )
        + TABLE_DISTANCES,
        "32 bits": instead(
            PRODUCT_QUANTIZE,
            "return numbers",
            "return numbers.to(torch.int32).long()",
        )
        + TABLE_DISTANCES,
        "of equal ones the last": instead(
            PRODUCT_QUANTIZE,
            "- codes).square().sum(2).argmin(1)",
            "- codes.flip(0)).square().sum(2).argmin(1)\n        index = len(codes) - 1 - index",
        )
        + TABLE_DISTANCES,
        "each piece quantises what is left": instead(
            PRODUCT_QUANTIZE,
            "chosen.append(codes[index])",
            "chosen.append(piece - codes[index])",
        )
        + TABLE_DISTANCES,
        "the pieces are reversed": instead(
            PRODUCT_QUANTIZE, "torch.cat(chosen,", "torch.cat(chosen[::-1],"
        )
        + TABLE_DISTANCES,
        "largest difference": instead(PRODUCT_QUANTIZE, "square().sum(2)", "abs().amax(2)")
        + TABLE_DISTANCES,
        "absolute differences": instead(PRODUCT_QUANTIZE, "square().sum(2)", "abs().sum(2)")
        + TABLE_DISTANCES,
        "only the numbers": instead(
            PRODUCT_QUANTIZE, "return numbers, torch.cat(chosen, dim=1)", "return numbers"
        )
        + TABLE_DISTANCES,
        "the stored vectors written out": PRODUCT_QUANTIZE + DECODED,
        "the stored pieces written out": PRODUCT_QUANTIZE + DECODED_IN_PIECES,
        "distances and not their squares": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "return distances", "return distances.sqrt()"),
        "distances of the pieces added": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "square().sum(2)", "square().sum(2).sqrt()"),
        "a mean over the pieces": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "return distances", "return distances / len(codebooks)"),
        "a mean over the coordinates": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "square().sum(2)", "square().mean(2)"),
        "read from the last piece": PRODUCT_QUANTIZE
        + instead(
            TABLE_DISTANCES,
            "in zip(pieces, codebooks, strict=True)",
            "in reversed(list(zip(pieces, codebooks, strict=True)))",
        ),
        "one base to read with": PRODUCT_QUANTIZE
        + instead(
            TABLE_DISTANCES,
            "numbers % len(codes)",
            "(numbers % len(codebooks[0])).clamp(max=len(codes) - 1)",
            "numbers // len(codes)",
            "numbers // len(codebooks[0])",
        ),
        "divided as floats": PRODUCT_QUANTIZE
        + instead(
            TABLE_DISTANCES, "numbers // len(codes)", "(numbers / len(codes)).round().long()"
        ),
        "the number is not divided": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "numbers = numbers // len(codes)", "pass"),
        "from number to query": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "return distances", "return distances.T"),
        "only the last piece": PRODUCT_QUANTIZE
        + instead(TABLE_DISTANCES, "distances = distances + of", "distances = of"),
        "the query is quantised, too": PRODUCT_QUANTIZE
        + instead(
            TABLE_DISTANCES,
            "        of_codes",
            "        piece = codes[(piece[:, None] - codes).square().sum(2).argmin(1)]\n"
            "        of_codes",
        ),
        "the lengths are left out": PRODUCT_QUANTIZE
        + instead(
            TABLE_DISTANCES,
            "(piece[:, None] - codes).square().sum(2)",
            "codes.square().sum(1) - 2 * piece @ codes.T",
        ),
    },
    "best_on_a_line": {
        "k-means from equal parts": LLOYD,
        "the best cut, again and again": CUT_AGAIN,
        "the cheapest merge, again and again": MERGE,
        "cut at the widest gaps": GAPS,
        "equal parts": PARTS_ALIKE,
        "not sorted": line("x.sort().values", "x"),
        "no price": line(" + price * size * (n / size).log2()", ""),
        "the price of a code once a cell": line("price * size * (n", "price * (n"),
        "the price of a fixed length": line("(n / size).log2()", "math.log2(most)"),
        "nats": line(".log2()", ".log()"),
        "the share in place of its logarithm": line("(n / size).log2()", "(n / size)"),
        "the sum, not the mean": line("ends[cells][n] / n", "ends[cells][n]"),
        "the price on the sum of errors": line("price * size", "price / n * size"),
        "always as many codes as allowed": line(
            "min(range(most), key=lambda k: ends[k][n].item())", "min(most, n) - 1"
        ),
        "a code too few": line(
            "range(most - 1)",
            "range(max(most - 2, 0))",
            "min(range(most)",
            "min(range(max(most - 1, 1))",
        ),
        "a code too many": line(
            "range(most - 1)", "range(most)", "min(range(most)", "min(range(most + 1)"
        ),
        "no bits in the search for the cells": line(
            "cell = error.clamp(min=0) + price * size * (n / size).log2()",
            "cell = error.clamp(min=0)",
            "    return cost,",
            "    sizes = counts.double()\n"
            "    cost = cost + price * (sizes / n * (n / sizes).log2()).sum()\n"
            "    return cost,",
        ),
        "squares that cancel": line("ordered - ordered.mean()", "ordered"),
        "codes that lack what was taken away": line("part in ordered.split", "part in y.split"),
        "medians": line("part.mean()", "part.median()"),
        "the middle of each cell": line("part.mean()", "(part[0] + part[-1]) / 2"),
        "descending codes": line(
            "counts = torch.tensor(cuts[::-1]).diff()\n    return cost, torch.stack([part.mean()"
            " for part in ordered.split(counts.tolist())]), counts",
            "counts = torch.tensor(cuts[::-1]).diff()\n"
            "    codes = [part.mean() for part in ordered.split(counts.tolist())]\n"
            "    return cost, torch.stack(codes[::-1]), counts.flip(0)",
        ),
        "counts from the right": line("tolist())]), counts", "tolist())]), counts.flip(0)"),
        "shares in place of counts": line("tolist())]), counts", "tolist())]), counts / n"),
        "each cell's error as a mean": line(
            ".square() / size\n", ".square() / size\n    error = error / size\n"
        ),
        "cells of two numbers at least": line(
            "cell[place[:, None] >= place] = math.inf",
            "cell[place[:, None] >= place - min(n - 1, 1)] = math.inf",
        ),
        "one code for each value": line(
            "    n = len(x)\n",
            "    most = min(most, len(x.unique()))\n    price = 0.0\n    n = len(x)\n",
        ),
        "equal numbers count once": line(
            "x.sort().values", "x.unique()", "n = len(x)", "n = len(x.unique())"
        ),
        "only the cost": line(
            "return cost, torch.stack([part.mean() for part in ordered.split(counts.tolist())]),"
            " counts",
            "return cost",
        ),
    },
}
