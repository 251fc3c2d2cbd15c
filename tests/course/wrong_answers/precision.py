"""Plausible wrong answers to `course/exercises/source/precision`: task -> {mistake: code}."""

ENCODE = """
def encode(value, exponent_bits, fraction_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    sign = (math.copysign(1, value) < 0) << (exponent_bits + fraction_bits)
    if math.isnan(value):
        return 2 ** (exponent_bits + fraction_bits) - 1
    if math.isinf(value):
        return sign + ((2**exponent_bits - 1) << fraction_bits)
    if value == 0:
        return sign
    exponent = max(math.frexp(value)[1] - 1, 1 - bias)
    ulps = int(math.ldexp(abs(value), fraction_bits - exponent))
    return sign + ((exponent + bias - 1) << fraction_bits) + ulps
"""
NEIGHBOURS = """
def neighbours(value, exponent_bits, fraction_bits):
    lowest = 2 - 2 ** (exponent_bits - 1)
    spacing = 2.0 ** (max(math.frexp(value)[1] - 1, lowest) - fraction_bits)
    count = value / spacing
    low, high = math.floor(count), math.ceil(count)
    chance = count - low
    return math.copysign(low * spacing, value), math.copysign(high * spacing, value), chance
"""
LOST_BELOW = """
def lost_below(weight, gradient, exponent_bits, fraction_bits):
    lowest = 2 - 2 ** (exponent_bits - 1)
    half, exponent = math.frexp(abs(weight))
    exponent = max(exponent - 1, lowest) if weight else lowest
    spacing = 2.0 ** (exponent - fraction_bits)
    odd = abs(weight) / spacing % 2 == 1
    inwards = weight * math.copysign(1, gradient) > 0
    if inwards and half == 0.5 and exponent > lowest:
        spacing /= 2
    return spacing / 2 / abs(gradient), odd
"""
LARGEST_SCALE = """
def largest_scale(gradients):
    sizes = [abs(gradient) for gradient in gradients if gradient != 0]
    if not sizes:
        return 1.0, 0.0
    scale = 2.0 ** (16 - math.frexp(max(sizes))[1])
    if scale * max(sizes) >= 65520:
        scale /= 2
    return scale, sum(scale * size <= 2.0**-25 for size in sizes) / len(sizes)
"""
LOST_STEPS = """
def lost_steps(steps, limit, start, interval):
    scale, done, lost = start, 0, 0
    while scale > limit and done < steps:
        scale, done, lost = scale / 2, done + 1, lost + 1
    while 2 * scale <= limit and done < steps:
        scale, done = 2 * scale, done + interval
    return lost + max(steps - done, 0) // (interval + 1)
"""
GUARDED_STEP = """
def guarded_step(weights, gradients, scale, rate, max_norm):
    if not all(gradient.isfinite().all() for gradient in gradients):
        return [weight.clone() for weight in weights], False
    unscaled = [gradient.float() / scale for gradient in gradients]
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in unscaled))
    factor = max_norm / norm if norm > max_norm else 1.0
    moved = [w - rate * factor * g for w, g in zip(weights, unscaled, strict=True)]
    return moved, True
"""
TREE_SUM = """
def tree_sum(values):
    if len(values) < 2:
        return values[0] if values else 0.0
    left = 2 ** ((len(values) - 1).bit_length() - 1)
    return half(tree_sum(values[:left]) + tree_sum(values[left:]))
"""
SPLIT = """
def split(master):
    bits = master.view(torch.int32)
    top = (bits + 2**15) >> 16
    rest = bits - (top << 16)
    return top.to(torch.int16).view(torch.bfloat16), rest.to(torch.int16)
"""
JOIN = """
def join(weight, rest):
    top = weight.view(torch.int16).to(torch.int32)
    return ((top << 16) + rest.to(torch.int32)).view(torch.float32)
"""
STEP = """
def step_(weight, rest, gradient, rate):
    moved = split(join(weight, rest) - rate * gradient.float())
    weight.copy_(moved[0])
    rest.copy_(moved[1])
"""


def instead(code, *changes):
    """Code with some of its lines changed, each of which it must have once."""
    for right, wrong in zip(changes[::2], changes[1::2], strict=True):
        assert code.count(right) == 1, right
        code = code.replace(right, wrong)
    return code


WRONG = {
    "encode": {
        "no subnormal numbers": instead(
            ENCODE, "max(math.frexp(value)[1] - 1, 1 - bias)", "math.frexp(value)[1] - 1"
        ),
        "subnormal numbers with an exponent less": instead(ENCODE, "1 - bias)", "-bias)"),
        "subnormal numbers have a stored exponent of 1": instead(
            ENCODE,
            "exponent + bias - 1) << fraction_bits) + ulps",
            "exponent + bias) << fraction_bits) + ulps % 2**fraction_bits",
        ),
        "the hidden one is stored": instead(ENCODE, "exponent + bias - 1)", "exponent + bias)"),
        "zero is a power of two": instead(ENCODE, "if value == 0:", "if False:"),
        "zero without a sign": instead(ENCODE, "math.copysign(1, value) < 0", "value < 0"),
        "infinity without a sign": instead(ENCODE, "sign + ((2**", "((2**"),
        "NaN is infinite, too": instead(
            ENCODE, "return 2 ** (exponent_bits + fraction_bits) - 1", "value = math.inf"
        ),
        "the quiet NaN": instead(
            ENCODE,
            "return 2 ** (exponent_bits + fraction_bits) - 1",
            "return (2 ** (exponent_bits + 1) - 1) << (fraction_bits - 1)",
        ),
        "the bias of three exponent bits": instead(ENCODE, "2 ** (exponent_bits - 1) - 1\n", "3\n"),
        "a bias too large by one": instead(
            ENCODE, "2 ** (exponent_bits - 1) - 1\n", "2 ** (exponent_bits - 1)\n"
        ),
        "always two fraction bits": instead(ENCODE, "fraction_bits - exponent)", "2 - exponent)"),
        "all exponent bits 1 is infinity": instead(
            ENCODE,
            "    ulps = int",
            """\
    if exponent > bias:
        return encode(math.inf, exponent_bits, fraction_bits)
    ulps = int""",
        ),
        "a negative code": instead(
            ENCODE,
            "    return sign + ((exponent",
            "    sign = -(2 * sign)\n    return sign + ((exponent",
        ),
        "by way of FP32": instead(
            ENCODE,
            "    bias =",
            "    value = torch.tensor(value, dtype=torch.float32).item()\n    bias =",
        ),
    },
    "neighbours": {
        "towards zero and away from it": instead(
            NEIGHBOURS,
            "math.floor(count), math.ceil(count)",
            "int(count), int(count) + (count != int(count))",
        ),
        "low is nearer to zero": instead(
            NEIGHBOURS,
            "math.floor(count), math.ceil(count)",
            "*sorted((math.floor(count), math.ceil(count)), key=abs)",
        ).replace("low, high = *", "low, high = "),
        "always a whole gap": instead(NEIGHBOURS, "math.ceil(count)", "math.floor(count) + 1"),
        "the chance of low": instead(NEIGHBOURS, "chance = count - low", "chance = high - count"),
        "the chance to go away from zero": instead(
            NEIGHBOURS, "chance = count - low", "chance = abs(count) - math.floor(abs(count))"
        ),
        "always one half": instead(
            NEIGHBOURS, "chance = count - low", "chance = 0.5 if count != low else 0.0"
        ),
        "the chance in units of the number": instead(
            NEIGHBOURS, "chance = count - low", "chance = (count - low) * spacing"
        ),
        "no subnormal numbers": instead(
            NEIGHBOURS, "max(math.frexp(value)[1] - 1, lowest)", "(math.frexp(value)[1] - 1)"
        ),
        "subnormal numbers become zero": instead(
            NEIGHBOURS,
            "    count =",
            "    if abs(value) < 2.0**lowest:\n        spacing = 2.0**lowest\n    count =",
        ),
        "the spacing of the next exponent": instead(NEIGHBOURS, "[1] - 1, lowest", "[1], lowest"),
        "zero without a sign": instead(
            NEIGHBOURS,
            "math.copysign(low * spacing, value), math.copysign(high * spacing, value)",
            "low * spacing, high * spacing",
        ),
        "always two fraction bits": instead(NEIGHBOURS, "lowest) - fraction_bits", "lowest) - 2"),
        "only the nearest": instead(
            NEIGHBOURS, "math.floor(count), math.ceil(count)", "round(count), round(count)"
        ),
    },
    "lost_below": {
        "a whole spacing": instead(LOST_BELOW, "spacing / 2 / abs", "spacing / abs"),
        "the same spacing on both sides": instead(LOST_BELOW, "if inwards and", "if False and"),
        "the smaller spacing on both sides": instead(LOST_BELOW, "if inwards and", "if"),
        "down is towards zero": instead(
            LOST_BELOW, "weight * math.copysign(1, gradient) > 0", "gradient > 0"
        ),
        "a positive gradient raises the weight": instead(
            LOST_BELOW, "math.copysign(1, gradient) > 0", "math.copysign(1, gradient) < 0"
        ),
        "no subnormal numbers": instead(
            LOST_BELOW, "max(exponent - 1, lowest) if", "exponent - 1 if"
        ).replace("if inwards and half == 0.5 and exponent > lowest", "if inwards and half == 0.5"),
        "half the spacing below the smallest normal number": instead(
            LOST_BELOW, "half == 0.5 and exponent > lowest", "half == 0.5 and exponent >= lowest"
        ),
        "a tie never moves": instead(LOST_BELOW, "% 2 == 1", "% 2 == 3"),
        "a tie always moves": instead(LOST_BELOW, "% 2 == 1", "% 2 < 3"),
        "a tie moves an even weight": instead(LOST_BELOW, "% 2 == 1", "% 2 == 0"),
        "the step and not the rate": instead(LOST_BELOW, " / abs(gradient)", ""),
        "the mean of the spacing": """
def lost_below(weight, gradient, exponent_bits, fraction_bits):
    bias = 2 ** (exponent_bits - 1) - 1
    spacing = max(abs(weight) * 2.0**-fraction_bits, 2.0 ** (1 - bias - fraction_bits))
    return spacing / 2 / abs(gradient), False
""",
    },
    "largest_scale": {
        "the largest number is the limit": instead(LARGEST_SCALE, ">= 65520", "> 65504"),
        "65520 is finite": instead(LARGEST_SCALE, ">= 65520", "> 65520"),
        "2^15 is the limit": instead(LARGEST_SCALE, "(16 - math", "(15 - math"),
        "with its sign": instead(
            LARGEST_SCALE, "frexp(max(sizes))", "frexp(max(gradients) or 1.0)"
        ),
        "at least 1": instead(
            LARGEST_SCALE,
            "    return scale, sum",
            """\
    scale = max(scale, 1.0)
    return scale, sum""",
        ),
        "whatever is below the smallest number vanishes": instead(
            LARGEST_SCALE, "<= 2.0**-25", "< 2.0**-24"
        ),
        "a tie does not vanish": instead(LARGEST_SCALE, "<= 2.0**-25", "< 2.0**-25"),
        "subnormal numbers vanish": instead(LARGEST_SCALE, "<= 2.0**-25", "< 2.0**-14"),
        "zeros are counted below": instead(LARGEST_SCALE, "/ len(sizes)", "/ len(gradients)"),
        "zeros have vanished": instead(
            LARGEST_SCALE,
            "for size in sizes) / len(sizes)",
            "for size in map(abs, gradients)) / len(gradients)",
        ),
        "the share before scaling": instead(LARGEST_SCALE, "sum(scale * size", "sum(size"),
    },
    "lost_steps": {
        "one in interval + 1": """
def lost_steps(steps, limit, start, interval):
    return steps // (interval + 1)
""",
        "one in interval": instead(LOST_STEPS, "// (interval + 1)", "// interval"),
        "nothing is lost on the way down": instead(LOST_STEPS, "lost + 1", "lost"),
        "no way up": instead(LOST_STEPS, "while 2 * scale <= limit", "while False"),
        "one step for each doubling": instead(LOST_STEPS, "done + interval", "done + 1"),
        "a lost step for each doubling": instead(
            LOST_STEPS, "2 * scale, done + interval", "2 * scale, done + interval + 1"
        ),
        "overflow at the limit": instead(
            LOST_STEPS, "scale > limit", "scale >= limit", "2 * scale <= limit", "2 * scale < limit"
        ),
        "the run does not end on the way down": instead(
            LOST_STEPS, "scale > limit and done < steps", "scale > limit"
        ),
        "the run does not end on the way up": instead(
            LOST_STEPS, "max(steps - done, 0) //", "(steps - done) //"
        ),
        "floats": instead(
            LOST_STEPS,
            "max(steps - done, 0) // (interval + 1)",
            "max(steps - done, 0) / (interval + 1)",
        ),
        "rounded up": instead(
            LOST_STEPS,
            "max(steps - done, 0) // (interval + 1)",
            "-(-max(steps - done, 0) // (interval + 1))",
        ),
        "floats, rounded down": instead(
            LOST_STEPS,
            "max(steps - done, 0) // (interval + 1)",
            "int(max(steps - done, 0) / (interval + 1))",
        ),
        "it stays below the limit": instead(
            LOST_STEPS,
            "    return lost + max(steps - done, 0) // (interval + 1)",
            "    return lost",
        ),
    },
    "guarded_step": {
        "clip, then unscale": instead(GUARDED_STEP, "= math.sqrt(", "= scale * math.sqrt("),
        "no unscaling": instead(GUARDED_STEP, "gradient.float() / scale", "gradient.float()"),
        "unscaled in FP16": instead(
            GUARDED_STEP, "gradient.float() / scale", "(gradient / scale).float()"
        ),
        "the norm in FP16": instead(
            GUARDED_STEP,
            "gradient.square().sum().item() for gradient in unscaled)",
            "g.square().sum().float().item() for g in gradients) / scale**2",
        ),
        "each tensor by its own norm": """
def guarded_step(weights, gradients, scale, rate, max_norm):
    if not all(gradient.isfinite().all() for gradient in gradients):
        return [weight.clone() for weight in weights], False
    moved = []
    for weight, gradient in zip(weights, gradients, strict=True):
        unscaled = gradient.float() / scale
        norm = unscaled.norm().item()
        factor = max_norm / norm if norm > max_norm else 1.0
        moved.append(weight - rate * factor * unscaled)
    return moved, True
""",
        "always the same length": instead(
            GUARDED_STEP, "if norm > max_norm else 1.0", "if norm > 0 else 1.0"
        ),
        "zero divided by zero": instead(
            GUARDED_STEP,
            "max_norm / norm if norm > max_norm else 1.0",
            "torch.tensor(norm).clamp(max=max_norm) / norm",
        ),
        "no clipping": instead(GUARDED_STEP, "max_norm / norm if norm > max_norm else 1.0", "1.0"),
        "only infinity is looked for": instead(
            GUARDED_STEP,
            "not all(gradient.isfinite().all() for",
            "any(gradient.isinf().any() for",
        ),
        "only NaN is looked for": instead(
            GUARDED_STEP,
            "not all(gradient.isfinite().all() for",
            "any(gradient.isnan().any() for",
            "norm > max_norm else",
            "max_norm < norm < math.inf else",
        ),
        "the sum of all numbers is looked at": instead(
            GUARDED_STEP,
            "not all(gradient.isfinite().all() for",
            "any(gradient.sum().isinf() for",
        ),
        "only the tensor that overflowed is skipped": """
def guarded_step(weights, gradients, scale, rate, max_norm):
    fine = [bool(gradient.isfinite().all()) for gradient in gradients]
    unscaled = [g.float() / scale if f else torch.zeros(g.shape) for g, f in zip(gradients, fine)]
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in unscaled))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [w - rate * factor * g for w, g in zip(weights, unscaled)], all(fine)
""",
        "in place": instead(
            GUARDED_STEP, "[w - rate * factor * g for", "[w.sub_(rate * factor * g) for"
        ),
        "the squared norm": instead(GUARDED_STEP, "math.sqrt(", "("),
        "uphill": instead(GUARDED_STEP, "[w - rate", "[w + rate"),
    },
    "tree_sum": {
        "one after the other": """
def tree_sum(values):
    total = 0.0
    for value in values:
        total = half(total + value)
    return total
""",
        "cut in the middle": instead(
            TREE_SUM, "2 ** ((len(values) - 1).bit_length() - 1)", "len(values) // 2"
        ),
        "cut in the middle, the longer part first": instead(
            TREE_SUM, "2 ** ((len(values) - 1).bit_length() - 1)", "(len(values) + 1) // 2"
        ),
        "the power of two on the right": instead(
            TREE_SUM,
            "2 ** ((len(values) - 1).bit_length() - 1)",
            "len(values) - 2 ** ((len(values) - 1).bit_length() - 1)",
        ),
        "every other number": instead(
            TREE_SUM,
            "values[:left]) + tree_sum(values[left:]",
            "values[::2]) + tree_sum(values[1::2]",
        ),
        "rounded at the end": """
def tree_sum(values):
    return half(math.fsum(values))
""",
        "only the large parts are rounded": instead(
            TREE_SUM,
            "    return half(",
            """\
    if left < 4:
        return math.fsum(values)
    return half(""",
        ),
        "rounded to BF16": """
def half(number):
    return torch.tensor(number, dtype=torch.float64).bfloat16().item()
"""
        + TREE_SUM,
        "None for no number": instead(
            TREE_SUM, "return values[0] if values else 0.0", "return values[0] if values else None"
        ),
        "the most accurate order": """
def tree_sum(values):
    values = sorted(values, key=abs)
    if len(values) < 2:
        return values[0] if values else 0.0
    left = 2 ** ((len(values) - 1).bit_length() - 1)
    return half(tree_sum(values[:left]) + tree_sum(values[left:]))
""",
    },
    "split": {
        "the first half of the bits": instead(
            SPLIT,
            "(bits + 2**15) >> 16",
            "bits >> 16",
            "rest.to(torch.int16)",
            "(rest - 2**15).to(torch.int16)",
        )
        + instead(JOIN, "rest.to(torch.int32)", "rest.to(torch.int32) + 2**15")
        + STEP,
        "ties to even": """
def split(master):
    weight = master.bfloat16()
    rest = master.view(torch.int32) - (weight.view(torch.int16).to(torch.int32) << 16)
    return weight, rest.to(torch.int16)
"""
        + JOIN
        + STEP,
        "the lower half of the bits beside a rounded weight": """
def split(master):
    return master.bfloat16(), (master.view(torch.int32) % 2**16 - 2**15).to(torch.int16)


def join(weight, rest):
    low = rest.to(torch.int32) + 2**15
    top = weight.view(torch.int16).to(torch.int32) - (low > 2**15).to(torch.int32)
    return ((top << 16) + low).view(torch.float32)
"""
        + STEP,
        "what is lacking, as a BF16 number": """
def split(master):
    weight = master.bfloat16()
    return weight, (master - weight.float()).bfloat16()


def join(weight, rest):
    return weight.float() + rest.float()
"""
        + STEP,
        "what is lacking, as an FP16 number in units of the spacing": """
def split(master):
    weight = master.bfloat16()
    unit = torch.ldexp(torch.ones(master.shape), torch.frexp(master).exponent - 8)
    return weight, ((master - weight.float()) / unit).half()


def join(weight, rest):
    return weight.float() + rest.float() * torch.ldexp(
        torch.ones(weight.shape), torch.frexp(weight.float()).exponent - 8
    )
"""
        + STEP,
        "what is lacking, counted as an integer in units of its value": """
def split(master):
    weight = master.bfloat16()
    unit = torch.ldexp(torch.ones(weight.shape), torch.frexp(weight.float()).exponent - 24)
    return weight, ((master - weight.float()) / unit).to(torch.int16)


def join(weight, rest):
    unit = torch.ldexp(torch.ones(weight.shape), torch.frexp(weight.float()).exponent - 24)
    return weight.float() + rest.float() * unit
"""
        + STEP,
        "32 bits beside the weight": """
def split(master):
    return master.bfloat16(), master.clone()


def join(weight, rest):
    return rest
"""
        + STEP,
        "the rest of the magnitude, without its sign": """
def split(master):
    bits = master.abs().view(torch.int32)
    top = (bits + 2**15) >> 16
    weight = top.to(torch.int16).view(torch.bfloat16)
    rest = bits - (top << 16)
    return torch.where(master < 0, -weight, weight), rest.to(torch.int16)


def join(weight, rest):
    top = weight.abs().view(torch.int16).to(torch.int32)
    size = ((top << 16) + rest.to(torch.int32)).view(torch.float32)
    return torch.where(weight < 0, -size, size)
"""
        + STEP,
        "the largest numbers saturate": instead(
            SPLIT,
            "    bits = master",
            """\
    largest = torch.finfo(torch.bfloat16).max
    bits = master.clamp(-largest, largest)""",
        )
        + JOIN
        + STEP,
        "the step changes only the weight": SPLIT
        + JOIN
        + instead(STEP, "    rest.copy_(moved[1])\n", ""),
        "the step is not in place": SPLIT
        + JOIN
        + instead(
            STEP, "    weight.copy_(moved[0])\n    rest.copy_(moved[1])", "    weight, rest = moved"
        ),
        "the step in BF16": SPLIT
        + JOIN
        + instead(
            STEP,
            "split(join(weight, rest) - rate * gradient.float())",
            """\
split((weight - rate * gradient).float())""",
        ),
        "the step keeps the rest it had": SPLIT
        + JOIN
        + """
def step_(weight, rest, gradient, rate):
    weight.copy_(join(weight, rest) - rate * gradient.float())
""",
    },
}
