"""Plausible wrong answers to `course/exercises/source/collectives`: task -> {mistake: code}."""

WRONG = {
    "chunk_bounds": {
        "rounded up": """
def chunk_bounds(size, ranks):
    length = -(-size // ranks)
    return [(rank * length, min(size, (rank + 1) * length)) for rank in range(ranks)]
""",
        "the rest to the last": """
def chunk_bounds(size, ranks):
    length = size // ranks
    stops = [length * (rank + 1) for rank in range(ranks)]
    stops[-1] = size
    return list(zip([0, *stops[:-1]], stops))
""",
        "the last ones are longer": """
def chunk_bounds(size, ranks):
    stops = [size * (rank + 1) // ranks for rank in range(ranks)]
    return list(zip([0, *stops[:-1]], stops))
""",
        "the rest is lost": """
def chunk_bounds(size, ranks):
    length = size // ranks
    return [(rank * length, (rank + 1) * length) for rank in range(ranks)]
""",
        "an empty chunk begins at 0": """
def chunk_bounds(size, ranks):
    length, longer = divmod(size, ranks)
    starts = [rank * length + min(rank, longer) for rank in range(ranks + 1)]
    return [(a, b) if a < b else (0, 0) for a, b in zip(starts, starts[1:])]
""",
    },
    "left_ring": {
        "still turning right": """
def left_ring(ranks):
    return [[(r - 1 - t) % ranks for r in range(ranks)] for t in range(2 * ranks - 2)]
""",
        "one chunk off": """
def left_ring(ranks):
    return [[(r + t) % ranks for r in range(ranks)] for t in range(2 * ranks - 2)]
""",
        "only half of it": """
def left_ring(ranks):
    return [[(r + 1 + t) % ranks for r in range(ranks)] for t in range(ranks - 1)]
""",
        "the same chunk again and again": """
def left_ring(ranks):
    return [[(r + 1) % ranks for r in range(ranks)] for _ in range(2 * ranks - 2)]
""",
        "steps in the wrong direction": """
def left_ring(ranks):
    return [[(r + 1 - t) % ranks for r in range(ranks)] for t in range(2 * ranks - 2)]
""",
        "the second half starts again": """
def left_ring(ranks):
    half = [[(r + 1 + t) % ranks for r in range(ranks)] for t in range(ranks - 1)]
    return half + half
""",
    },
    "fastest": {
        "logarithm rounded down": """
def fastest(ranks, size, alpha, beta):
    levels = int(math.log2(ranks))
    share = 2 * (ranks - 1) / ranks * size * beta
    times = {"ring": 2 * (ranks - 1) * alpha + share, "tree": 2 * levels * (alpha + size * beta)}
    if 2**levels == ranks:
        times["halving"] = 2 * levels * alpha + share
    name = min(times, key=times.get)
    return name, times[name]
""",
        "half of an all-reduce": """
def fastest(ranks, size, alpha, beta):
    levels = (ranks - 1).bit_length()
    share = (ranks - 1) / ranks * size * beta
    times = {"ring": 2 * (ranks - 1) * alpha + share, "tree": 2 * levels * (alpha + size * beta)}
    if 2**levels == ranks:
        times["halving"] = 2 * levels * alpha + share
    name = min(times, key=times.get)
    return name, times[name]
""",
        "halving for any number": """
def fastest(ranks, size, alpha, beta):
    levels = (ranks - 1).bit_length()
    share = 2 * (ranks - 1) / ranks * size * beta
    times = {
        "ring": 2 * (ranks - 1) * alpha + share,
        "tree": 2 * levels * (alpha + size * beta),
        "halving": 2 * levels * alpha + share,
    }
    name = min(times, key=times.get)
    return name, times[name]
""",
        "the tree moves its bytes once": """
def fastest(ranks, size, alpha, beta):
    levels = (ranks - 1).bit_length()
    share = 2 * (ranks - 1) / ranks * size * beta
    times = {"ring": 2 * (ranks - 1) * alpha + share, "tree": 2 * levels * alpha + 2 * size * beta}
    if 2**levels == ranks:
        times["halving"] = 2 * levels * alpha + share
    name = min(times, key=times.get)
    return name, times[name]
""",
        "of equal ones the last": """
def fastest(ranks, size, alpha, beta):
    levels = (ranks - 1).bit_length()
    share = 2 * (ranks - 1) / ranks * size * beta
    times = {"tree": 2 * levels * (alpha + size * beta)}
    if 2**levels == ranks:
        times["halving"] = 2 * levels * alpha + share
    times["ring"] = 2 * (ranks - 1) * alpha + share
    name = min(times, key=times.get)
    return name, times[name]
""",
        "of equal ones, halving": """
def fastest(ranks, size, alpha, beta):
    levels = (ranks - 1).bit_length()
    share = 2 * (ranks - 1) / ranks * size * beta
    times = {"halving": 2 * levels * alpha + share} if 2**levels == ranks else {}
    times["ring"] = 2 * (ranks - 1) * alpha + share
    times["tree"] = 2 * levels * (alpha + size * beta)
    name = min(times, key=times.get)
    return name, times[name]
""",
    },
    "fit": {
        "absolute errors": """
def fit(sizes, times, ranks):
    rows = [[2 * (ranks - 1), 2 * (ranks - 1) / ranks * s * 1e-6] for s in sizes]
    rows = torch.tensor(rows, dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)[:, None]
    alpha, beta = torch.linalg.lstsq(rows, t).solution[:, 0].tolist()
    return alpha, beta * 1e-6
""",
        "a line through the ends": """
def fit(sizes, times, ranks):
    slope = (times[-1] - times[0]) / (sizes[-1] - sizes[0])
    start = times[0] - slope * sizes[0]
    return start / (2 * (ranks - 1)), slope * ranks / (2 * (ranks - 1))
""",
        "one message": """
def fit(sizes, times, ranks):
    t = torch.tensor(times, dtype=torch.float64)
    s = torch.tensor(sizes, dtype=torch.float64)
    rows = torch.stack([1 / t, 1e-4 * s / t], dim=1)
    alpha, beta = torch.linalg.lstsq(rows, torch.ones_like(t)[:, None]).solution[:, 0].tolist()
    return alpha, beta * 1e-4
""",
        "every chunk is as long as the tensor": """
def fit(sizes, times, ranks):
    t = torch.tensor(times, dtype=torch.float64)
    s = torch.tensor(sizes, dtype=torch.float64)
    rows = 2 * (ranks - 1) * torch.stack([1 / t, 1e-4 * s / t], dim=1)
    alpha, beta = torch.linalg.lstsq(rows, torch.ones_like(t)[:, None]).solution[:, 0].tolist()
    return alpha, beta * 1e-4
""",
        "half of an all-reduce": """
def fit(sizes, times, ranks):
    t = torch.tensor(times, dtype=torch.float64)
    s = torch.tensor(sizes, dtype=torch.float64)
    rows = (ranks - 1) * torch.stack([1 / t, 1e-4 * s / ranks / t], dim=1)
    alpha, beta = torch.linalg.lstsq(rows, torch.ones_like(t)[:, None]).solution[:, 0].tolist()
    return alpha, beta * 1e-4
""",
        "weighted by the root of the time": """
def fit(sizes, times, ranks):
    t = torch.tensor(times, dtype=torch.float64)
    s = torch.tensor(sizes, dtype=torch.float64)
    rows = 2 * (ranks - 1) * torch.stack([t**-0.5, 1e-4 * s / ranks * t**-0.5], dim=1)
    alpha, beta = torch.linalg.lstsq(rows, t[:, None] ** 0.5).solution[:, 0].tolist()
    return alpha, beta * 1e-4
""",
    },
    "who_differs": {
        "rank 0 is always right": """
def who_differs(headers):
    return [rank for rank, header in enumerate(headers) if header != headers[0]]
""",
        "a tie goes to the alphabet": """
def who_differs(headers):
    usual = max(sorted(set(headers)), key=headers.count)
    return [rank for rank, header in enumerate(headers) if header != usual]
""",
        "only a rank that is alone": """
def who_differs(headers):
    if len(set(headers)) == 1:
        return []
    return [rank for rank, header in enumerate(headers) if headers.count(header) == 1]
""",
        "more than half": """
def who_differs(headers):
    for header in headers:
        if 2 * headers.count(header) > len(headers):
            return [rank for rank, other in enumerate(headers) if other != header]
    return list(range(len(headers)))
""",
        "a tie goes to the last": """
def who_differs(headers):
    usual = max(reversed(headers), key=headers.count)
    return [rank for rank, header in enumerate(headers) if header != usual]
""",
        "a tie goes to the end of the alphabet": """
def who_differs(headers):
    usual = max(sorted(set(headers), reverse=True), key=headers.count)
    return [rank for rank, header in enumerate(headers) if header != usual]
""",
    },
    "finish_time": {
        "from the first layer on": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = 0.0
    for number, (seconds, size) in enumerate(layers, start=1):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes or (number == len(layers) and waiting):
            free = max(free, now) + alpha + waiting * beta
            waiting = 0.0
    return max(now, free)
""",
        "all buckets at once": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = waiting = end = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes or (number == len(layers) and waiting):
            end = max(end, now + alpha + waiting * beta)
            waiting = 0.0
    return max(now, end)
""",
        "one after the other": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = waiting = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes or (number == len(layers) and waiting):
            now += alpha + waiting * beta
            waiting = 0.0
    return now
""",
        "the last bucket stays behind": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = 0.0
    for seconds, size in reversed(layers):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes:
            free = max(free, now) + alpha + waiting * beta
            waiting = 0.0
    return max(free, now)
""",
        "closed only when more comes": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        if waiting > bucket_bytes or (number == len(layers) and waiting):
            free = max(free, now) + alpha + waiting * beta
            waiting = 0.0
    return max(now, free)
""",
        "no latency": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes or (number == len(layers) and waiting):
            free = max(free, now) + waiting * beta
            waiting = 0.0
    return max(now, free) + alpha
""",
        "a latency for each layer": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = held = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        held += 1
        if waiting >= bucket_bytes or (number == len(layers) and waiting):
            free = max(free, now) + held * alpha + waiting * beta
            waiting = held = 0.0
    return max(now, free)
""",
        "an empty bucket at the end": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes or number == len(layers):
            free = max(free, now) + alpha + waiting * beta
            waiting = 0.0
    return max(now, free)
""",
        "the end of the backward pass is not awaited": """
def finish_time(layers, bucket_bytes, alpha, beta):
    now = free = waiting = 0.0
    for number, (seconds, size) in enumerate(reversed(layers), start=1):
        now += seconds
        waiting += size
        if waiting >= bucket_bytes or (number == len(layers) and waiting):
            free = max(free, now) + alpha + waiting * beta
            waiting = 0.0
    return free
""",
    },
    "owner": {
        "rounded down": """
def owner(sizes, ranks, parameter, index):
    part = max(1, sum(sizes) // ranks)
    return divmod(sum(sizes[:parameter]) + index, part)
""",
        "each parameter by itself": """
def owner(sizes, ranks, parameter, index):
    part = -(-sizes[parameter] // ranks)
    return divmod(index, part)
""",
        "dealt like cards": """
def owner(sizes, ranks, parameter, index):
    place = sum(sizes[:parameter]) + index
    return place % ranks, place // ranks
""",
        "the parameter itself is counted": """
def owner(sizes, ranks, parameter, index):
    part = -(-sum(sizes) // ranks)
    return divmod(sum(sizes[: parameter + 1]) + index, part)
""",
        "uneven parts": """
def owner(sizes, ranks, parameter, index):
    place = sum(sizes[:parameter]) + index
    length, longer = divmod(sum(sizes), ranks)
    start = 0
    for rank in range(ranks):
        stop = start + length + (rank < longer)
        if place < stop:
            return rank, place - start
        start = stop
""",
        "only the parameter just before": """
def owner(sizes, ranks, parameter, index):
    before = sizes[parameter - 1] if parameter else 0
    return divmod(before + index, -(-sum(sizes) // ranks))
""",
    },
    "best_buckets": {
        "a bucket for each layer": """
def best_buckets(layers, alpha, beta):
    return [1] * len(layers)
""",
        "one bucket for all": """
def best_buckets(layers, alpha, beta):
    return [len(layers)]
""",
        "the better of the two extremes": """
def seconds_of(layers, buckets, alpha, beta):
    order, now, free = layers[::-1], 0.0, 0.0
    for count in buckets:
        part, order = order[:count], order[count:]
        now += sum(seconds for seconds, _ in part)
        free = max(now, free) + alpha + beta * sum(size for _, size in part)
    return free


def best_buckets(layers, alpha, beta):
    ways = [[1] * len(layers), [len(layers)]]
    return min(ways, key=lambda buckets: seconds_of(layers, buckets, alpha, beta))
""",
        "from the first layer on": """
def best_buckets(layers, alpha, beta):
    ends = [(0.0, [])]
    now = 0.0
    order = layers
    for stop in range(1, len(order) + 1):
        now += order[stop - 1][0]
        ways = []
        for start, (end, buckets) in enumerate(ends):
            size = sum(size for _, size in order[start:stop])
            ways.append((max(end, now) + alpha + size * beta, [*buckets, stop - start]))
        ends.append(min(ways))
    return ends[-1][1]
""",
        "the last bucket closed comes first": """
def best_buckets(layers, alpha, beta):
    ends = [(0.0, [])]
    now = 0.0
    order = layers[::-1]
    for stop in range(1, len(order) + 1):
        now += order[stop - 1][0]
        ways = []
        for start, (end, buckets) in enumerate(ends):
            size = sum(size for _, size in order[start:stop])
            ways.append((max(end, now) + alpha + size * beta, [*buckets, stop - start]))
        ends.append(min(ways))
    return ends[-1][1][::-1]
""",
        "no latency": """
def best_buckets(layers, alpha, beta):
    ends = [(0.0, [])]
    now = 0.0
    order = layers[::-1]
    for stop in range(1, len(order) + 1):
        now += order[stop - 1][0]
        ways = []
        for start, (end, buckets) in enumerate(ends):
            size = sum(size for _, size in order[start:stop])
            ways.append((max(end, now) + size * beta, [*buckets, stop - start]))
        ends.append(min(ways))
    return ends[-1][1]
""",
        "nothing hides": """
def best_buckets(layers, alpha, beta):
    ends = [(0.0, [])]
    now = 0.0
    order = layers[::-1]
    for stop in range(1, len(order) + 1):
        now += order[stop - 1][0]
        ways = []
        for start, (end, buckets) in enumerate(ends):
            size = sum(size for _, size in order[start:stop])
            ways.append((end + alpha + size * beta, [*buckets, stop - start]))
        ends.append(min(ways))
    return ends[-1][1]
""",
        "closed whenever the network is free": """
def best_buckets(layers, alpha, beta):
    now = free = size = 0.0
    count, buckets = 0, []
    for number, (seconds, more) in enumerate(reversed(layers), start=1):
        now, size, count = now + seconds, size + more, count + 1
        if free <= now or number == len(layers):
            free = max(free, now) + alpha + size * beta
            buckets.append(count)
            size = count = 0
    return buckets
""",
        "split in two as long as that helps": """
def seconds_of(layers, buckets, alpha, beta):
    order, now, free = layers[::-1], 0.0, 0.0
    for count in buckets:
        part, order = order[:count], order[count:]
        now += sum(seconds for seconds, _ in part)
        free = max(now, free) + alpha + beta * sum(size for _, size in part)
    return free


def best_buckets(layers, alpha, beta):
    best = [len(layers)]
    while True:
        ways = [
            [*best[:i], k, count - k, *best[i + 1 :]]
            for i, count in enumerate(best)
            for k in range(1, count)
        ]
        shortest = min([best, *ways], key=lambda way: seconds_of(layers, way, alpha, beta))
        if shortest == best:
            return best
        best = shortest
""",
        "the best of all fixed numbers of layers": """
def seconds_of(layers, buckets, alpha, beta):
    order, now, free = layers[::-1], 0.0, 0.0
    for count in buckets:
        part, order = order[:count], order[count:]
        now += sum(seconds for seconds, _ in part)
        free = max(now, free) + alpha + beta * sum(size for _, size in part)
    return free


def best_buckets(layers, alpha, beta):
    count = len(layers)
    ways = [[k] * (count // k) + [count % k] * (count % k > 0) for k in range(1, count + 1)]
    return min(ways, key=lambda buckets: seconds_of(layers, buckets, alpha, beta))
""",
        "the best of all fixed numbers of bytes": """
def seconds_of(layers, buckets, alpha, beta):
    order, now, free = layers[::-1], 0.0, 0.0
    for count in buckets:
        part, order = order[:count], order[count:]
        now += sum(seconds for seconds, _ in part)
        free = max(now, free) + alpha + beta * sum(size for _, size in part)
    return free


def filled(layers, bucket_bytes):
    buckets, count, waiting = [], 0, 0
    for _, size in reversed(layers):
        count, waiting = count + 1, waiting + size
        if waiting >= bucket_bytes:
            buckets.append(count)
            count = waiting = 0
    return buckets + [count] * (count > 0)


def best_buckets(layers, alpha, beta):
    ways = [filled(layers, size) for size in range(1, sum(size for _, size in layers) + 1)]
    return min(ways, key=lambda buckets: seconds_of(layers, buckets, alpha, beta))
""",
    },
}
