"""Plausible wrong answers to `course/exercises/source/gan`: task -> {mistake: code}."""

BEST_DISCRIMINATOR = """
def best_discriminator(p, q, share):
    log_ratio = torch.where((p == 0) & (q == 0), 0.0, p.log() - q.log())
    logit = log_ratio + math.log(share / (1 - share))
    return logit.sigmoid(), logit
"""
SMOOTHED_LOSS = """
def smoothed_discriminator_loss(real_logits, fake_logits, target):
    softplus = torch.nn.functional.softplus
    real = target * softplus(-real_logits) + (1 - target) * softplus(real_logits)
    return real.mean() + softplus(fake_logits).mean()
"""
DAMPED_GAME = """
def damped_game(eta, gamma, steps, start):
    path = [start]
    for _ in range(steps):
        x, y = path[-1]
        path.append((x - eta * y, y + eta * (x - gamma * y)))
    return torch.tensor(path, dtype=torch.float64)
"""
LARGEST_STEP = """
def largest_step(gamma):
    if gamma <= 2:
        return float(gamma)
    return 4 / (gamma + math.sqrt(gamma**2 - 4))
"""
PACKED = """
def packed(p, q, m):
    many_p, many_q = p, q
    for _ in range(m - 1):
        many_p, many_q = torch.outer(many_p, p).flatten(), torch.outer(many_q, q).flatten()
    middle = (many_p + many_q) / 2
    entropies = [torch.special.entr(weights).sum() for weights in (middle, many_p, many_q)]
    variation = (many_p - many_q).abs().sum() / 2
    return entropies[0] - (entropies[1] + entropies[2]) / 2, variation
"""
INFORMATION = """
def information_bound(joint, guess):
    xlogy = torch.special.xlogy
    code, sample = joint.sum(1), joint.sum(0)
    bound = xlogy(joint, guess).sum() - xlogy(code, code).sum()
    posterior = xlogy(joint, joint).sum() - xlogy(sample, sample).sum()
    return bound, posterior - xlogy(code, code).sum()
"""
F_BOUND = """
def f_bound(t, p, q, name):
    if name == "kl":
        conjugate = (t - 1).exp()
    elif name == "reverse_kl":
        conjugate = -1 - (-t).log()
    else:
        conjugate = torch.where(t > -2, t + t**2 / 4, -1.0)
    return torch.where(p > 0, p * t, 0).sum() - torch.where(q > 0, q * conjugate, 0).sum()
"""
BEST_CRITIC = """
def best_critic(p, q, name, groups):
    empty = torch.zeros(int(groups.max()) + 1, dtype=p.dtype)
    real, fake = empty.index_add(0, groups, p)[groups], empty.index_add(0, groups, q)[groups]
    ratio = torch.where((real == 0) & (fake == 0), 1.0, real / fake)
    return {"kl": 1 + ratio.log(), "reverse_kl": -1 / ratio, "pearson": 2 * ratio - 2}[name]
"""


def instead(code, *changes):
    """Code with some of its lines changed, each of which it must have once."""
    for right, wrong in zip(changes[::2], changes[1::2], strict=True):
        assert code.count(right) == 1, right
        code = code.replace(right, wrong)
    return code


WRONG = {
    "best_discriminator": {
        "half of the batch is real": instead(
            BEST_DISCRIMINATOR, " + math.log(share / (1 - share))", ""
        ),
        "the share of the fakes": instead(
            BEST_DISCRIMINATOR, "share / (1 - share)", "(1 - share) / share"
        ),
        "the share instead of its odds": instead(
            BEST_DISCRIMINATOR, "share / (1 - share)", "share"
        ),
        "only the real samples are weighed": """
def best_discriminator(p, q, share):
    best = share * p / (share * p + q)
    best = torch.where((p == 0) & (q == 0), share, best)
    return best, best.logit()
""",
        "p and q exchanged": instead(BEST_DISCRIMINATOR, "p.log() - q.log()", "q.log() - p.log()"),
        "NaN where both are 0": instead(
            BEST_DISCRIMINATOR,
            "torch.where((p == 0) & (q == 0), 0.0, p.log() - q.log())",
            "p.log() - q.log()",
        ),
        "one half where both are 0": """
def best_discriminator(p, q, share):
    logit = p.log() - q.log() + math.log(share / (1 - share))
    logit = torch.where((p == 0) & (q == 0), 0.0, logit)
    return logit.sigmoid(), logit
""",
        "no infinite logits": instead(
            BEST_DISCRIMINATOR,
            "\n    return",
            """
    logit = logit.nan_to_num()
    return""",
        ),
        "the logit from D": """
def best_discriminator(p, q, share):
    best = share * p / (share * p + (1 - share) * q)
    best = torch.where((p == 0) & (q == 0), share, best)
    return best, best.log() - (1 - best).log()
""",
        "the logarithm of the quotient": instead(
            BEST_DISCRIMINATOR, "p.log() - q.log()", "(p / q).log()"
        ),
        "a small number against zeros": instead(
            BEST_DISCRIMINATOR, "p.log() - q.log()", "(p + 1e-12).log() - (q + 1e-12).log()"
        ),
        "the logit without the share": instead(
            BEST_DISCRIMINATOR, "sigmoid(), logit", "sigmoid(), log_ratio"
        ),
        "in place": instead(BEST_DISCRIMINATOR, "q.log())", "q.log_())"),
        "only D": instead(BEST_DISCRIMINATOR, "sigmoid(), logit", "sigmoid()"),
        "taken from the package": """
from companion.gan import optimal_discriminator as best_discriminator
""",
    },
    "smoothed_loss": {
        "no smoothing": instead(
            SMOOTHED_LOSS,
            "target * softplus(-real_logits) + (1 - target) * softplus(real_logits)",
            "softplus(-real_logits)",
        ),
        "the fakes smoothed, too": instead(
            SMOOTHED_LOSS,
            "softplus(fake_logits).mean()",
            "(target * softplus(fake_logits) + (1 - target) * softplus(-fake_logits)).mean()",
        ),
        "the fakes smoothed, the real samples not": """
def smoothed_discriminator_loss(real_logits, fake_logits, target):
    softplus = torch.nn.functional.softplus
    fake = target * softplus(fake_logits) + (1 - target) * softplus(-fake_logits)
    return softplus(-real_logits).mean() + fake.mean()
""",
        "only the first term": instead(
            SMOOTHED_LOSS, " + (1 - target) * softplus(real_logits)", ""
        ),
        "target and its rest exchanged": instead(
            SMOOTHED_LOSS,
            "target * softplus(-real_logits) + (1 - target) * softplus(real_logits)",
            "(1 - target) * softplus(-real_logits) + target * softplus(real_logits)",
        ),
        "real and fake exchanged": instead(
            SMOOTHED_LOSS,
            "target * softplus(-real_logits) + (1 - target) * softplus(real_logits)",
            "target * softplus(real_logits) + (1 - target) * softplus(-real_logits)",
            "softplus(fake_logits)",
            "softplus(-fake_logits)",
        ),
        "one mean over all": instead(
            SMOOTHED_LOSS,
            "real.mean() + softplus(fake_logits).mean()",
            "torch.cat([real.flatten(), softplus(fake_logits).flatten()]).mean()",
        ),
        "half of the sum of the means": instead(
            SMOOTHED_LOSS,
            "real.mean() + softplus(fake_logits).mean()",
            "(real.mean() + softplus(fake_logits).mean()) / 2",
        ),
        "sums": instead(
            SMOOTHED_LOSS,
            "real.mean() + softplus(fake_logits).mean()",
            "real.sum() + softplus(fake_logits).sum()",
        ),
        "the logarithm of a sigmoid": """
def smoothed_discriminator_loss(real_logits, fake_logits, target):
    real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
    losses = -target * real.log() - (1 - target) * (1 - real).log()
    return losses.mean() - (1 - fake).log().mean()
""",
        "probabilities kept from 0 and 1": """
def smoothed_discriminator_loss(real_logits, fake_logits, target):
    real, fake = (x.sigmoid().clamp(1e-7, 1 - 1e-7) for x in (real_logits, fake_logits))
    losses = -target * real.log() - (1 - target) * (1 - real).log()
    return losses.mean() - (1 - fake).log().mean()
""",
        "the squared distance to the label": """
def smoothed_discriminator_loss(real_logits, fake_logits, target):
    return (real_logits.sigmoid() - target).square().mean() + fake_logits.sigmoid().square().mean()
""",
        "without a gradient": instead(
            SMOOTHED_LOSS,
            "real.mean() + softplus(fake_logits).mean()",
            "(real.mean() + softplus(fake_logits).mean()).item()",
        ),
        "always 0.9": instead(SMOOTHED_LOSS, "    real =", "    target = 0.9\n    real ="),
    },
    "damped_game": {
        "one after the other": instead(
            DAMPED_GAME,
            "        path.append((x - eta * y, y + eta * (x - gamma * y)))",
            "        x = x - eta * y\n        path.append((x, y + eta * (x - gamma * y)))",
        )
        + LARGEST_STEP,
        "both go down": instead(DAMPED_GAME, "y + eta * (x", "y - eta * (x") + LARGEST_STEP,
        "the penalty is won": instead(DAMPED_GAME, "x - gamma * y", "x + gamma * y") + LARGEST_STEP,
        "half of the penalty's derivative": instead(DAMPED_GAME, "gamma * y", "gamma / 2 * y")
        + LARGEST_STEP,
        "the penalty and not its derivative": instead(DAMPED_GAME, "gamma * y", "gamma / 2 * y**2")
        + LARGEST_STEP,
        "the generator pays, too": instead(
            DAMPED_GAME, "x - eta * y,", "x - eta * (y + gamma * x),"
        )
        + LARGEST_STEP,
        "the generator pays": instead(
            DAMPED_GAME, "x - eta * y,", "x - eta * (y + gamma * x),", "(x - gamma * y)", "x"
        )
        + LARGEST_STEP,
        "without the start": instead(DAMPED_GAME, "tensor(path,", "tensor(path[1:],")
        + LARGEST_STEP,
        "only the end": instead(DAMPED_GAME, "tensor(path,", "tensor(path[-1],") + LARGEST_STEP,
        "a row for each player": instead(
            DAMPED_GAME, "dtype=torch.float64)", "dtype=torch.float64).T"
        )
        + LARGEST_STEP,
        "always gamma": DAMPED_GAME + instead(LARGEST_STEP, "gamma <= 2", "True"),
        "at most 2": DAMPED_GAME
        + instead(LARGEST_STEP, "4 / (gamma + math.sqrt(gamma**2 - 4))", "2.0"),
        "2 / gamma for large gamma": DAMPED_GAME
        + instead(LARGEST_STEP, "4 / (gamma + math.sqrt(gamma**2 - 4))", "2 / gamma"),
        "the other eigenvalue": DAMPED_GAME
        + instead(LARGEST_STEP, "(gamma + math.sqrt", "(gamma - math.sqrt"),
        "half of it: the smaller eigenvalue reaches 0": DAMPED_GAME
        + instead(LARGEST_STEP, "return 4 /", "return 2 /"),
        "the case of real eigenvalues for all gamma": DAMPED_GAME
        + instead(LARGEST_STEP, "gamma <= 2", "False", "gamma**2 - 4", "abs(gamma**2 - 4)"),
        "the border of the cases is 4": DAMPED_GAME
        + instead(LARGEST_STEP, "gamma <= 2", "gamma <= 4"),
        "twice gamma": DAMPED_GAME + instead(LARGEST_STEP, "float(gamma)", "2.0 * gamma"),
        "the squared bound": DAMPED_GAME
        + instead(LARGEST_STEP, "float(gamma)", "math.sqrt(gamma)"),
    },
    "packed": {
        "always one sample": instead(PACKED, "range(m - 1)", "range(0)"),
        "always two samples": instead(PACKED, "range(m - 1)", "range(1)"),
        "a sample too many": instead(PACKED, "range(m - 1)", "range(m)"),
        "doubled each time": instead(
            PACKED,
            "torch.outer(many_p, p)",
            "torch.outer(many_p, many_p)",
            "torch.outer(many_q, q)",
            "torch.outer(many_q, many_q)",
        ),
        "the same place m times": instead(
            PACKED, "p, q\n", "p**m, q**m\n", "range(m - 1)", "range(0)"
        ),
        "the same place m times, with sum 1": instead(
            PACKED,
            "p, q\n",
            "p**m / (p**m).sum(), q**m / (q**m).sum()\n",
            "range(m - 1)",
            "range(0)",
        ),
        "real and fake in one pack": instead(PACKED, "(many_p, p)", "(many_p, q)"),
        "m times the divergence of one": """
def packed(p, q, m):
    entropies = [torch.special.entr(weights).sum() for weights in ((p + q) / 2, p, q)]
    variation = (p - q).abs().sum() / 2
    return m * (entropies[0] - (entropies[1] + entropies[2]) / 2), m * variation
""",
        "the variation as if a missing mode were the only mistake": instead(
            PACKED,
            "(many_p - many_q).abs().sum() / 2",
            "1 - (1 - (p - q).abs().sum() / 2) ** m",
        ),
        "the whole sum of the differences": instead(PACKED, ".abs().sum() / 2", ".abs().sum()"),
        "the largest difference": instead(PACKED, ".abs().sum() / 2", ".abs().max()"),
        "without absolute values": instead(PACKED, ".abs().sum() / 2", ".sum() / 2"),
        "NaN for zeros": instead(
            PACKED, "torch.special.entr(weights).sum()", "-(weights * weights.log()).sum()"
        ),
        "bits": instead(
            PACKED,
            "entropies[0] - (entropies[1] + entropies[2]) / 2,",
            "(entropies[0] - (entropies[1] + entropies[2]) / 2) / math.log(2),",
        ),
        "the square root": instead(
            PACKED,
            "entropies[0] - (entropies[1] + entropies[2]) / 2,",
            "(entropies[0] - (entropies[1] + entropies[2]) / 2).sqrt(),",
        ),
        "twice the divergence": instead(
            PACKED,
            "entropies[0] - (entropies[1] + entropies[2]) / 2,",
            "2 * entropies[0] - entropies[1] - entropies[2],",
        ),
        "a KL divergence": instead(
            PACKED,
            "entropies[0] - (entropies[1] + entropies[2]) / 2,",
            "torch.special.xlogy(many_p, many_p / many_q.clamp(min=1e-12)).sum(),",
        ),
        "the products of the middle": instead(
            PACKED,
            "    middle = (many_p + many_q) / 2",
            "    middle = half = (p + q) / 2\n"
            "    for _ in range(m - 1):\n"
            "        middle = torch.outer(middle, half).flatten()",
        ),
    },
    "information": {
        "all codes equally frequent": instead(
            INFORMATION,
            "guess).sum() - xlogy(code, code).sum()",
            "guess).sum() + math.log(len(joint))",
        ),
        "no entropy": instead(
            INFORMATION, "guess).sum() - xlogy(code, code).sum()", "guess).sum()"
        ),
        "the entropy of the samples": instead(
            INFORMATION,
            "guess).sum() - xlogy(code, code).sum()",
            "guess).sum() - xlogy(sample, sample).sum()",
        ),
        "rows and columns exchanged": instead(
            INFORMATION, "joint.sum(1), joint.sum(0)", "joint.sum(0), joint.sum(1)"
        ),
        "the entropy is subtracted": instead(
            INFORMATION,
            "guess).sum() - xlogy(code, code).sum()",
            "guess).sum() + xlogy(code, code).sum()",
        ),
        "all samples equally frequent": instead(
            INFORMATION, "xlogy(joint, guess).sum()", "xlogy(joint / sample, guess).sum(0).mean()"
        ),
        "weighed by the guess": instead(
            INFORMATION,
            "xlogy(joint, guess).sum()",
            "(sample * xlogy(guess, guess).sum(0)).sum()",
        ),
        "NaN for zeros": instead(INFORMATION, "torch.special.xlogy", "lambda x, y: x * y.log()"),
        "zeros are skipped, also where they count": instead(
            INFORMATION,
            "xlogy(joint, guess).sum()",
            "(joint * guess.log()).nan_to_num(0, 0, 0).sum()",
        ),
        "a small number against zeros": instead(
            INFORMATION, "xlogy(joint, guess)", "xlogy(joint, guess + 1e-12)"
        ),
        "bits": instead(
            INFORMATION,
            "torch.special.xlogy",
            "lambda x, y: torch.special.xlogy(x, y) / math.log(2)",
        ),
        "never below 0": instead(
            INFORMATION, "    return bound,", "    return bound.clamp(min=0),"
        ),
        "the bound twice": instead(
            INFORMATION, "return bound, posterior - xlogy(code, code).sum()", "return bound, bound"
        ),
        "the information of the best guess, less the code's entropy": instead(
            INFORMATION,
            "return bound, posterior - xlogy(code, code).sum()",
            "return bound, posterior",
        ),
        "the entropy of the table": instead(
            INFORMATION,
            "return bound, posterior - xlogy(code, code).sum()",
            "return bound, -xlogy(joint, joint).sum()",
        ),
        "only the bound": instead(
            INFORMATION, "return bound, posterior - xlogy(code, code).sum()", "return bound"
        ),
    },
    "f_bound": {
        "the conjugate is f": """
def f_bound(t, p, q, name):
    if name == "kl":
        value = t * t.log()
    elif name == "reverse_kl":
        value = -t.log()
    else:
        value = (t - 1) ** 2
    return torch.where(p > 0, p * t, 0).sum() - torch.where(q > 0, q * value, 0).sum()
"""
        + BEST_CRITIC,
        "e to the t": instead(F_BOUND, "(t - 1).exp()", "t.exp()") + BEST_CRITIC,
        "e to the t, less 1": instead(F_BOUND, "(t - 1).exp()", "t.exp() - 1") + BEST_CRITIC,
        "reverse KL: the 1 is lost": instead(F_BOUND, "-1 - (-t).log()", "-(-t).log()")
        + BEST_CRITIC,
        "reverse KL: the logarithm added": instead(F_BOUND, "-1 - (-t)", "-1 + (-t)") + BEST_CRITIC,
        "reverse KL: finite at 0": instead(F_BOUND, "(-t).log()", "(-t).clamp(min=1e-6).log()")
        + BEST_CRITIC,
        "Pearson: u may be negative": instead(F_BOUND, "t > -2", "t.isfinite()") + BEST_CRITIC,
        "Pearson: from t = 0 downwards u is 0": instead(F_BOUND, "t > -2", "t > 0") + BEST_CRITIC,
        "Pearson: 0 below -2": instead(F_BOUND, "4, -1.0)", "4, 0.0)") + BEST_CRITIC,
        "Pearson: half of the square": instead(F_BOUND, "t**2 / 4", "t**2 / 2") + BEST_CRITIC,
        "zero times infinity is NaN": instead(
            F_BOUND,
            "torch.where(p > 0, p * t, 0).sum() - torch.where(q > 0, q * conjugate, 0).sum()",
            "(p * t - q * conjugate).sum()",
        )
        + BEST_CRITIC,
        "infinite terms are skipped": instead(
            F_BOUND,
            "torch.where(p > 0, p * t, 0).sum() - torch.where(q > 0, q * conjugate, 0).sum()",
            "(p * t - q * conjugate).nan_to_num(0, 0, 0).sum()",
        )
        + BEST_CRITIC,
        "p and q exchanged": instead(
            F_BOUND,
            "torch.where(p > 0, p * t, 0).sum() - torch.where(q > 0, q * conjugate, 0).sum()",
            "torch.where(q > 0, q * t, 0).sum() - torch.where(p > 0, p * conjugate, 0).sum()",
        )
        + BEST_CRITIC,
        "means": instead(
            F_BOUND,
            "torch.where(p > 0, p * t, 0).sum() - torch.where(q > 0, q * conjugate, 0).sum()",
            "torch.where(p > 0, p * t, 0).mean() - torch.where(q > 0, q * conjugate, 0).mean()",
        )
        + BEST_CRITIC,
        "the groups are ignored": F_BOUND
        + instead(BEST_CRITIC, "    empty =", "    groups = torch.arange(len(p))\n    empty ="),
        "the mean of each place's critic": F_BOUND
        + """
def best_critic(p, q, name, groups):
    ratio = torch.where((p == 0) & (q == 0), 1.0, p / q)
    t = {"kl": 1 + ratio.log(), "reverse_kl": -1 / ratio, "pearson": 2 * ratio - 2}[name]
    together = groups[:, None] == groups
    return torch.where(together, t, 0).sum(1) / together.sum(1)
""",
        "the mean of each place's ratio": F_BOUND
        + """
def best_critic(p, q, name, groups):
    together = groups[:, None] == groups
    ratio = torch.where((p == 0) & (q == 0), 1.0, p / q)
    ratio = torch.where(together, ratio, 0).sum(1) / together.sum(1)
    return {"kl": 1 + ratio.log(), "reverse_kl": -1 / ratio, "pearson": 2 * ratio - 2}[name]
""",
        "one value for each group": F_BOUND
        + instead(
            BEST_CRITIC,
            "p)[groups], empty.index_add(0, groups, q)[groups]",
            "p), empty.index_add(0, groups, q)",
        ),
        "the value of f": F_BOUND
        + instead(
            BEST_CRITIC,
            '"kl": 1 + ratio.log(), "reverse_kl": -1 / ratio, "pearson": 2 * ratio - 2',
            '"kl": ratio * ratio.log(), "reverse_kl": -ratio.log(), "pearson": (ratio - 1) ** 2',
        ),
        "q over p": F_BOUND + instead(BEST_CRITIC, "real / fake", "fake / real"),
        "KL: the 1 is lost": F_BOUND + instead(BEST_CRITIC, "1 + ratio.log()", "ratio.log()"),
        "reverse KL: the sign": F_BOUND + instead(BEST_CRITIC, "-1 / ratio", "1 / ratio"),
        "Pearson: the 2 is lost": F_BOUND + instead(BEST_CRITIC, "2 * ratio - 2", "ratio - 1"),
        "NaN for an empty group": F_BOUND
        + instead(
            BEST_CRITIC,
            "torch.where((real == 0) & (fake == 0), 1.0, real / fake)",
            "real / fake",
        ),
        "a ratio of 0 for an empty group": F_BOUND
        + instead(BEST_CRITIC, "(fake == 0), 1.0,", "(fake == 0), 0.0,"),
        "a small number against zeros": F_BOUND
        + instead(
            BEST_CRITIC,
            "torch.where((real == 0) & (fake == 0), 1.0, real / fake)",
            "(real + 1e-9) / (fake + 1e-9)",
        ),
    },
}
