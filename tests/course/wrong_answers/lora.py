"""Plausible wrong answers to `course/exercises/source/lora`: task -> {mistake: code}."""

WRONG = {
    "batched_adapters": {
        "taken from the package": """
from companion.lora.linear import LoRALinear as batched_adapters
""",
        "alpha where alpha / R was meant": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] += alpha * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO
""",
        "alpha over the number of inputs": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] += alpha / a_RI.shape[1] * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO
""",
        "one row after the other": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for t, k in enumerate(which_T.tolist()):
        if k >= 0:
            a_RI, b_OR, alpha = adapters[k]
            y_TO[t] += alpha / len(a_RI) * (b_OR @ (a_RI @ x_TI[t]))
    return y_TO
""",
        "a row without an adapter gets the last one": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k in which_T.unique().tolist():
        a_RI, b_OR, alpha = adapters[k]
        mine_T = which_T == k
        y_TO[mine_T] += alpha / len(a_RI) * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO
""",
        "right, but every row goes through every adapter": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        update_TO = alpha / len(a_RI) * (x_TI @ a_RI.T @ b_OR.T)
        y_TO += mine_T[:, None] * update_TO
    return y_TO
""",
        "right, but builds the whole update": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] += alpha / len(a_RI) * (x_TI[mine_T] @ (b_OR @ a_RI).T)
    return y_TO
""",
        "right, but padded to the largest rank": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    rank = max([len(a_RI) for a_RI, _, _ in adapters], default=1)
    outputs, inputs = w_OI.shape
    a_KRI = w_OI.new_zeros(len(adapters) + 1, rank, inputs)
    b_KOR = w_OI.new_zeros(len(adapters) + 1, outputs, rank)
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        a_KRI[k, : len(a_RI)] = a_RI
        b_KOR[k, :, : len(a_RI)] = b_OR * alpha / len(a_RI)
    low_TR = torch.einsum("ti,tri->tr", x_TI, a_KRI[which_T])
    return x_TI @ w_OI.T + torch.einsum("tr,tor->to", low_TR, b_KOR[which_T])
""",
        "padded, and divided by the padded rank": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    rank = max([len(a_RI) for a_RI, _, _ in adapters], default=1)
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] += alpha / rank * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO
""",
        "the base forgotten": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] = alpha / len(a_RI) * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO
""",
        "rows in the order of their adapters": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    parts = [x_TI[which_T == -1] @ w_OI.T]
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        x = x_TI[which_T == k]
        parts.append(x @ w_OI.T + alpha / len(a_RI) * (x @ a_RI.T @ b_OR.T))
    return torch.cat(parts)
""",
        "reshaped where it should be transposed": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        R = len(a_RI)
        mine_T = which_T == k
        y_TO[mine_T] += (
            alpha / len(a_RI) * x_TI[mine_T] @ a_RI.reshape(-1, R) @ b_OR.reshape(R, -1)
        )
    return y_TO
""",
        "B not transposed": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] += alpha / len(a_RI) * (x_TI[mine_T] @ a_RI.T @ b_OR)
    return y_TO
""",
        "all adapters on all rows": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T >= -1
        y_TO[mine_T] += alpha / len(a_RI) * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO
""",
        "rounded to float32": """
def batched_adapters(x_TI, w_OI, adapters, which_T):
    y_TO = x_TI @ w_OI.T
    for k, (a_RI, b_OR, alpha) in enumerate(adapters):
        mine_T = which_T == k
        y_TO[mine_T] += alpha / len(a_RI) * (x_TI[mine_T] @ a_RI.T @ b_OR.T)
    return y_TO.float()
""",
    },
    "clipped_gradients": {
        "no limit at all": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "scale forgotten in the gradient": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "scale forgotten in the length": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = (of_a_T + of_b_T).sqrt()
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "mean over the rows": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale / len(x_TI) * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "returned in the other order": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * grad_y_TO).T @ low_TR, (factor_T1 * back_TR).T @ x_TI
""",
        "the step instead of the gradient": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = -scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "A and B shortened apart": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T1 = scale * back_TR.norm(dim=1, keepdim=True) * x_TI.norm(dim=1, keepdim=True)
    of_b_T1 = scale * grad_y_TO.norm(dim=1, keepdim=True) * low_TR.norm(dim=1, keepdim=True)
    factor_a_T1, factor_b_T1 = (scale * (limit / n).clamp(max=1.0) for n in (of_a_T1, of_b_T1))
    return (factor_a_T1 * back_TR).T @ x_TI, (factor_b_T1 * grad_y_TO).T @ low_TR
""",
        "the two lengths added": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T.sqrt() + of_b_T.sqrt())
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "the square of the length": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale**2 * (of_a_T + of_b_T)
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "the sum shortened, not the examples": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    grad_a_RI = scale * (grad_y_TO @ b_OR).T @ x_TI
    grad_b_OR = scale * grad_y_TO.T @ (x_TI @ a_RI.T)
    length = (grad_a_RI.square().sum() + grad_b_OR.square().sum()).sqrt()
    factor = (limit / length).clamp(max=1.0)
    return factor * grad_a_RI, factor * grad_b_OR
""",
        "short gradients stretched to the limit": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale * (limit / length_T).nan_to_num(1.0, posinf=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "the rows of H shortened": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = grad_y_TO.norm(dim=1)
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "nan where a gradient is zero": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale * length_T.clamp(max=limit).div(length_T)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "right, but with all gradients in memory": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    of_a_TRI = scale * torch.einsum("tr,ti->tri", grad_y_TO @ b_OR, x_TI)
    of_b_TOR = scale * torch.einsum("to,tr->tor", grad_y_TO, x_TI @ a_RI.T)
    length_T = (of_a_TRI.square().sum(dim=(1, 2)) + of_b_TOR.square().sum(dim=(1, 2))).sqrt()
    factor_T = (limit / length_T).clamp(max=1.0)
    grad_a_RI = torch.einsum("t,tri->ri", factor_T, of_a_TRI)
    return grad_a_RI, torch.einsum("t,tor->or", factor_T, of_b_TOR)
""",
        "X and H exchanged": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, x_TI @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return (factor_T1 * back_TR).T @ x_TI, (factor_T1 * grad_y_TO).T @ low_TR
""",
        "not in float64": """
def clipped_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale, limit):
    low_TR, back_TR = x_TI @ a_RI.T, grad_y_TO @ b_OR
    of_a_T = back_TR.square().sum(dim=1) * x_TI.square().sum(dim=1)
    of_b_T = grad_y_TO.square().sum(dim=1) * low_TR.square().sum(dim=1)
    length_T = scale * (of_a_T + of_b_T).sqrt()
    factor_T1 = scale * (limit / length_T).clamp(max=1.0)[:, None]
    return ((factor_T1 * back_TR).T @ x_TI).float(), (factor_T1 * grad_y_TO).T @ low_TR
""",
    },
    "merge": {
        "unmerged by subtraction": """
def merge_(w_OI, a_RI, b_OR, scale):
    delta_OI = scale * (b_OR @ a_RI)
    w_OI.copy_(w_OI.float() + delta_OI)
    return delta_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(w_OI.float() - kept)
""",
        "the update rounded before it is added": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI.clone()
    w_OI += (scale * (b_OR @ a_RI)).bfloat16()
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(kept)
""",
        "everything in bfloat16": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI.clone()
    w_OI += scale * (b_OR.bfloat16() @ a_RI.bfloat16())
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(kept)
""",
        "A and B rounded, then added in float32": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI.clone()
    a_RI, b_OR = a_RI.bfloat16().float(), b_OR.bfloat16().float()
    w_OI.copy_(w_OI.float() + scale * (b_OR @ a_RI))
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(kept)
""",
        "a second name kept, no copy": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI
    w_OI.copy_(w_OI.float() + scale * (b_OR @ a_RI))
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(kept)
""",
        "float32 left behind": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI.clone()
    w_OI.data = w_OI.float() + scale * (b_OR @ a_RI)
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.data = kept
""",
        "a new tensor, the weight unchanged": """
def merge_(w_OI, a_RI, b_OR, scale):
    return (w_OI.float() + scale * (b_OR @ a_RI)).bfloat16()

def unmerge_(w_OI, kept):
    pass
""",
        "scale forgotten": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI.clone()
    w_OI.copy_(w_OI.float() + b_OR @ a_RI)
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(kept)
""",
        "A scaled in place": """
def merge_(w_OI, a_RI, b_OR, scale):
    kept_OI = w_OI.clone()
    a_RI *= scale
    w_OI.copy_(w_OI.float() + b_OR @ a_RI)
    return kept_OI

def unmerge_(w_OI, kept):
    w_OI.copy_(kept)
""",
    },
    "combine_adapters": {
        "stacked, and nothing left out": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    return torch.cat([a_RI for a_RI, _, _ in adapters]), b_OS
""",
        "singular values, not their squares": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "the share of what is kept": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > (1 - share) * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "one direction more than needed": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) + 1 if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "one direction less than needed": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) - 1 if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "the share of the norm, not of its square": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share**2 * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "factors forgotten": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "factors without their sign": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([abs(factor) * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "factors at A and at B": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([f * a_RI for a_RI, _, f in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "singular values at A and at B": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ (u_MK[:, :r] * s_K[:r])
""",
        "rank 0 never": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum())
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]
""",
        "the strongest column pairs, no singular values": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    s_S, order_S = (b_OS.norm(dim=0) * a_SI.norm(dim=1)).sort(descending=True)
    without_S = s_S.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_S > share * without_S[0]).sum())
    return a_SI[order_S[:r]], b_OS[:, order_S[:r]]
""",
        "each adapter on its own": """
def one(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ right_IN.T, left_OM @ u_MK[:, :r]


def combine_adapters(adapters, share):
    parts = [one([adapter], share) for adapter in adapters]
    return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1)
""",
        "the first columns of the orthogonal factors": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return (thin_MS @ thin_NS.T @ right_IN.T)[:r], left_OM[:, :r]
""",
        "the energy of B alone": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KN[:r] @ a_SI, left_OM @ u_MK[:, :r]
""",
        "right, but the whole update is formed": """
def combine_adapters(adapters, share):
    delta_OI = sum(factor * (b_OR @ a_RI) for a_RI, b_OR, factor in adapters)
    u_OK, s_K, v_KI = torch.linalg.svd(delta_OI, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return s_K[:r, None] * v_KI[:r], u_OK[:, :r]
""",
        "B and A in the other order": """
def combine_adapters(adapters, share):
    b_OS = torch.cat([factor * b_OR for _, b_OR, factor in adapters], dim=1)
    a_SI = torch.cat([a_RI for a_RI, _, _ in adapters])
    left_OM, thin_MS = torch.linalg.qr(b_OS)
    right_IN, thin_NS = torch.linalg.qr(a_SI.T)
    u_MK, s_K, v_KN = torch.linalg.svd(thin_MS @ thin_NS.T, full_matrices=False)
    without_K = s_K.square().flip(0).cumsum(dim=0).flip(0)
    r = int((without_K > share * without_K[0]).sum()) if without_K[0] >= 1e-20 else 0
    return left_OM @ u_MK[:, :r], s_K[:r, None] * v_KN[:r] @ right_IN.T
""",
    },
    "quantize_blocks": {
        "one absmax for everything": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = weight_N.abs().max().repeat((len(weight_N) + missing) // block)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "a block of zeros divided by zero": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "the next lower value instead of the nearest": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.searchsorted(code_K, scaled_N, right=True) - 1, absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "the largest value instead of the largest absolute value": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "sign lost": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N.abs() / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "a code with even steps assumed": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return ((scaled_N + 1) / 2 * (len(code_K) - 1)).round().long(), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "absmax forgotten on the way back": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N]
""",
        "blocks taken with a stride": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(block, -1).abs().amax(dim=0)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "code values instead of indices": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return code_K[torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2)], absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "ties go up": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2, right=True), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "ties go towards zero": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    middles = (code_K[1:] + code_K[:-1]) / 2
    below_N = torch.bucketize(scaled_N, middles, right=True)
    return torch.where(scaled_N < 0, below_N, torch.bucketize(scaled_N, middles)), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "right, but in a table of all distances": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return (scaled_N[:, None] - code_K).abs().argmin(dim=1), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "the last block filled up": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    weight_N = torch.nn.functional.pad(weight_N, (0, missing))
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "the last block left out": """
def quantize_blocks(weight_N, code_K, block):
    whole = len(weight_N) // block * block
    absmax = weight_N[:whole].reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N[:whole] / divisor.repeat_interleave(block)
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)
""",
        "blocks of equal length assumed": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = weight_N.reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
        "indices of 32 bits": """
def quantize_blocks(weight_N, code_K, block):
    missing = -len(weight_N) % block
    absmax = torch.nn.functional.pad(weight_N, (0, missing)).reshape(-1, block).abs().amax(dim=1)
    divisor = absmax.masked_fill(absmax == 0, 1.0)
    scaled_N = weight_N / divisor.repeat_interleave(block)[: len(weight_N)]
    return torch.bucketize(scaled_N, (code_K[1:] + code_K[:-1]) / 2, out_int32=True), absmax

def dequantize_blocks(indices_N, absmax, code_K, block):
    return code_K[indices_N] * absmax.repeat_interleave(block)[: len(indices_N)]
""",
    },
    "dora_weight": {
        "columns instead of rows": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=0)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    return magnitude_O * v_OI / v_OI.norm(dim=0, keepdim=True)
""",
        "divided by the length of W, not of W + s B A": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    return magnitude_O[:, None] * v_OI / w_OI.norm(dim=1, keepdim=True)
""",
        "lengths along the columns": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    return magnitude_O * v_OI / v_OI.norm(dim=1, keepdim=True)
""",
        "the direction not divided by its length": """
def initial_magnitude(w_OI):
    return torch.ones(len(w_OI), dtype=w_OI.dtype)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    return magnitude_O[:, None] * (w_OI + scale * b_OR @ a_RI)
""",
        "only the update is stretched": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    delta_OI = scale * b_OR @ a_RI
    length = delta_OI.norm(dim=1, keepdim=True) + 1e-9
    return w_OI + magnitude_O[:, None] * delta_OI / length
""",
        "one length for the whole matrix": """
def initial_magnitude(w_OI):
    return w_OI.norm().repeat(len(w_OI))

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    return magnitude_O[:, None] * v_OI / v_OI.norm()
""",
        "the square of the length": """
def initial_magnitude(w_OI):
    return w_OI.square().sum(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    return magnitude_O[:, None] * v_OI / v_OI.square().sum(dim=1, keepdim=True)
""",
        "scale forgotten": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + b_OR @ a_RI
    return magnitude_O[:, None] * v_OI / v_OI.norm(dim=1, keepdim=True)
""",
        "the length differentiated, too": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    length_O1 = v_OI.square().sum(dim=1, keepdim=True).add(1e-300).sqrt()
    inverse_O1 = length_O1.reciprocal().masked_fill(length_O1 == 0, 0.0)
    return magnitude_O[:, None] * inverse_O1 * v_OI
""",
        "nan where a row is zero": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    length_O1 = v_OI.detach().norm(dim=1, keepdim=True)
    inverse_O1 = length_O1.reciprocal()
    return magnitude_O[:, None] * inverse_O1 * v_OI
""",
        "a zero row divided by one": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    length_O1 = v_OI.detach().norm(dim=1, keepdim=True)
    inverse_O1 = length_O1.masked_fill(length_O1 == 0, 1.0).reciprocal()
    return magnitude_O[:, None] * inverse_O1 * v_OI
""",
        "the direction detached": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    length_O1 = v_OI.detach().norm(dim=1, keepdim=True)
    inverse_O1 = length_O1.reciprocal().masked_fill(length_O1 == 0, 0.0)
    return magnitude_O[:, None] * inverse_O1 * v_OI.detach()
""",
        "the length of W as the constant": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    length_O1 = w_OI.norm(dim=1, keepdim=True)
    inverse_O1 = length_O1.reciprocal().masked_fill(length_O1 == 0, 0.0)
    return magnitude_O[:, None] * inverse_O1 * v_OI
""",
        "numpy, without a gradient": """
def initial_magnitude(w_OI):
    return w_OI.norm(dim=1)

def dora_weight(w_OI, a_RI, b_OR, scale, magnitude_O):
    v_OI = w_OI + scale * b_OR @ a_RI
    length_O1 = v_OI.detach().norm(dim=1, keepdim=True)
    inverse_O1 = length_O1.reciprocal().masked_fill(length_O1 == 0, 0.0)
    return (magnitude_O[:, None] * inverse_O1 * v_OI).detach()
""",
    },
    "closest_step": {
        "the gradient steps of the chapter": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    step_a_RI = -eta * scale * (grad_y_TO @ b_OR).T @ x_TI
    return step_a_RI, -eta * scale * grad_y_TO.T @ (x_TI @ a_RI.T)
""",
        "each the best on its own": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    a_IR, b_RO = (torch.linalg.pinv(m, rtol=1e-10) for m in (a_RI, b_OR))
    ratio = -eta / scale
    return ratio * (grad_y_TO @ b_RO.T).T @ x_TI, ratio * grad_y_TO.T @ (x_TI @ a_IR)
""",
        "half of what each can do": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    a_IR, b_RO = (torch.linalg.pinv(m, rtol=1e-10) for m in (a_RI, b_OR))
    ratio = -eta / scale / 2
    return ratio * (grad_y_TO @ b_RO.T).T @ x_TI, ratio * grad_y_TO.T @ (x_TI @ a_IR)
""",
        "first B, then A what is left": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    a_IR, b_RO = (torch.linalg.pinv(m, rtol=1e-10) for m in (a_RI, b_OR))
    h_TO = -eta / scale * grad_y_TO
    return (h_TO @ b_RO.T).T @ (x_TI - x_TI @ a_IR @ a_RI), h_TO.T @ (x_TI @ a_IR)
""",
        "first A, then B what is left": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    a_IR, b_RO = (torch.linalg.pinv(m, rtol=1e-10) for m in (a_RI, b_OR))
    h_TO = -eta / scale * grad_y_TO
    rest_TO = h_TO - h_TO @ b_RO.T @ b_OR.T
    return (h_TO @ b_RO.T).T @ x_TI, rest_TO.T @ (x_TI @ a_IR)
""",
        "the shared part in halves": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    a_IR, b_RO = (torch.linalg.pinv(m, rtol=1e-10) for m in (a_RI, b_OR))
    h_TO = -eta / scale * grad_y_TO
    step_a_RI = (h_TO @ b_RO.T).T @ (x_TI - x_TI @ a_IR @ a_RI / 2)
    return step_a_RI, (h_TO - h_TO @ b_RO.T @ b_OR.T / 2).T @ (x_TI @ a_IR)
""",
        "inverses of A A^T and of B^T B": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    a_IR = a_RI.T @ torch.linalg.inv(a_RI @ a_RI.T)
    b_RO = torch.linalg.inv(b_OR.T @ b_OR) @ b_OR.T
    h_TO = -eta / scale * grad_y_TO
    return (h_TO @ b_RO.T).T @ (x_TI - x_TI @ a_IR @ a_RI), h_TO.T @ (x_TI @ a_IR)
""",
        "scale forgotten": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "multiplied by the scale": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta * scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "in the other direction": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = eta / scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "only B moves": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta / scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / q_K**2
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return 0 * step_a_RI, step_b_OR
""",
        "nothing shared": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta / scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK * 0
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "shares exchanged": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta / scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + (q_K**2 / p_L1) * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * p_L1**2 / q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "nan where a singular value is zero": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K >= 0, p_L >= 0
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta / scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "zeros found exactly, not up to rounding": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 0, p_L > 0
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta / scale * grad_y_TO
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
        "right, but G is formed": """
def closest_step(x_TI, grad_y_TO, a_RI, b_OR, scale, eta):
    left_RK, q_K, v_KI = torch.linalg.svd(a_RI, full_matrices=False)
    u_OL, p_L, right_LR = torch.linalg.svd(b_OR, full_matrices=False)
    of_a_K, of_b_L = q_K > 1e-10 * q_K[0], p_L > 1e-10 * p_L[0]
    left_RK, q_K, v_KI = left_RK[:, of_a_K], q_K[of_a_K], v_KI[of_a_K]
    u_OL, p_L1, right_LR = u_OL[:, of_b_L], p_L[of_b_L, None], right_LR[of_b_L]
    h_TO = -eta / scale * grad_y_TO
    h_TO, x_TI = h_TO.T @ x_TI, torch.eye(x_TI.shape[1], dtype=x_TI.dtype)
    h_TO = h_TO.T
    x_TK, h_TL = x_TI @ v_KI.T, h_TO @ u_OL
    only_b_OK = (h_TO - h_TL @ u_OL.T).T @ x_TK
    only_a_LI = h_TL.T @ (x_TI - x_TK @ v_KI)
    shared_LK = h_TL.T @ x_TK / (p_L1**2 + q_K**2)
    step_a_RI = right_LR.T @ (only_a_LI / p_L1 + p_L1 * shared_LK @ v_KI)
    step_b_OR = (only_b_OK / q_K + u_OL @ (shared_LK * q_K)) @ left_RK.T
    return step_a_RI, step_b_OR
""",
    },
}
