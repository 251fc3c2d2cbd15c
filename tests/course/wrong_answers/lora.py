"""Plausible wrong answers to `course/exercises/source/lora`: task -> {mistake: code}."""

WRONG = {
    "adapted_forward": {
        "alpha where alpha / R was meant": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    return x @ w_OI.T + alpha * ((x @ a_RI.T) @ b_OR.T)
""",
        "alpha over the number of inputs": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    return x @ w_OI.T + alpha / a_RI.shape[-1] * ((x @ a_RI.T) @ b_OR.T)
""",
        "right, but builds the whole update": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    delta_OI = alpha / a_RI.shape[0] * (b_OR @ a_RI)
    return x @ (w_OI + delta_OI).T
""",
        "the base layer forgotten": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    return alpha / a_RI.shape[0] * ((x @ a_RI.T) @ b_OR.T)
""",
        "the base layer scaled too": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    return alpha / a_RI.shape[0] * (x @ w_OI.T + (x @ a_RI.T) @ b_OR.T)
""",
        "scaled at A and at B": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    scale = alpha / a_RI.shape[0]
    return x @ w_OI.T + scale * (scale * (x @ a_RI.T)) @ b_OR.T
""",
        "reshaped where it should be transposed": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    rank, inputs = a_RI.shape
    update = x @ a_RI.reshape(inputs, rank) @ b_OR.reshape(rank, -1)
    return x @ w_OI.T + alpha / rank * update
""",
        "the axes in front flattened": """
def adapted_forward(x, w_OI, a_RI, b_OR, alpha):
    x = x.reshape(-1, x.shape[-1])
    return x @ w_OI.T + alpha / a_RI.shape[0] * ((x @ a_RI.T) @ b_OR.T)
""",
        "taken from the package": """
from companion.lora.linear import LoRALinear as adapted_forward
""",
    },
    "lora_gradients": {
        "scale forgotten": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    return (grad_y_TO @ b_OR).T @ x_TI, grad_y_TO.T @ (x_TI @ a_RI.T)
""",
        "scale at B only": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    return (grad_y_TO @ b_OR).T @ x_TI, scale * grad_y_TO.T @ (x_TI @ a_RI.T)
""",
        "mean over the rows": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    full_OI = scale * grad_y_TO.T @ x_TI / len(x_TI)
    return b_OR.T @ full_OI, full_OI @ a_RI.T
""",
        "returned in the other order": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    full_OI = scale * grad_y_TO.T @ x_TI
    return full_OI @ a_RI.T, b_OR.T @ full_OI
""",
        "the step instead of the gradient": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    full_OI = -scale * grad_y_TO.T @ x_TI
    return b_OR.T @ full_OI, full_OI @ a_RI.T
""",
        "the gradient of the sum of both factors": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    full_OI = scale * grad_y_TO.T @ x_TI
    return torch.ones_like(b_OR).T @ full_OI, full_OI @ torch.ones_like(a_RI).T
""",
        "the gradient of the full matrix": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    return grad_y_TO.T @ x_TI
""",
        "products of entries where matrices were meant": """
def lora_gradients(x_TI, grad_y_TO, a_RI, b_OR, scale):
    grad_a_RI = scale * (grad_y_TO @ b_OR).sum(dim=0)[:, None] * x_TI.sum(dim=0)
    grad_b_OR = scale * grad_y_TO.sum(dim=0)[:, None] * (x_TI @ a_RI.T).sum(dim=0)
    return grad_a_RI, grad_b_OR
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
    "subspace_similarity": {
        "left singular vectors": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    u1 = torch.linalg.svd(a1_RI, full_matrices=False).U[:, :i]
    u2 = torch.linalg.svd(a2_RI, full_matrices=False).U[:, :j]
    return (u1.T @ u2).square().sum() / min(i, j)
""",
        "columns of Vh instead of rows": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.linalg.svd(a1_RI, full_matrices=False).Vh[:, :i]
    v2 = torch.linalg.svd(a2_RI, full_matrices=False).Vh[:, :j]
    return (v1.T @ v2).square().sum() / min(i, j)
""",
        "not divided": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.linalg.svd(a1_RI, full_matrices=False).Vh[:i]
    v2 = torch.linalg.svd(a2_RI, full_matrices=False).Vh[:j]
    return (v1 @ v2.T).square().sum()
""",
        "divided by the larger number": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.linalg.svd(a1_RI, full_matrices=False).Vh[:i]
    v2 = torch.linalg.svd(a2_RI, full_matrices=False).Vh[:j]
    return (v1 @ v2.T).square().sum() / max(i, j)
""",
        "the norm without its square": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.linalg.svd(a1_RI, full_matrices=False).Vh[:i]
    v2 = torch.linalg.svd(a2_RI, full_matrices=False).Vh[:j]
    return (v1 @ v2.T).norm() / min(i, j)
""",
        "the largest singular value instead of the sum of squares": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.linalg.svd(a1_RI, full_matrices=False).Vh[:i]
    v2 = torch.linalg.svd(a2_RI, full_matrices=False).Vh[:j]
    return torch.linalg.matrix_norm(v1 @ v2.T, 2) ** 2 / min(i, j)
""",
        "i and j exchanged": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.linalg.svd(a1_RI, full_matrices=False).Vh[:j]
    v2 = torch.linalg.svd(a2_RI, full_matrices=False).Vh[:i]
    return (v1 @ v2.T).square().sum() / min(i, j)
""",
        "rows of A of length one, no singular vectors": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    v1 = torch.nn.functional.normalize(a1_RI, dim=1)[:i]
    v2 = torch.nn.functional.normalize(a2_RI, dim=1)[:j]
    return (v1 @ v2.T).square().sum() / min(i, j)
""",
        "the strongest rows of A, by length": """
def subspace_similarity(a1_RI, a2_RI, i, j):
    a1_RI = a1_RI[a1_RI.norm(dim=1).argsort(descending=True)]
    a2_RI = a2_RI[a2_RI.norm(dim=1).argsort(descending=True)]
    v1 = torch.nn.functional.normalize(a1_RI, dim=1)[:i]
    v2 = torch.nn.functional.normalize(a2_RI, dim=1)[:j]
    return (v1 @ v2.T).square().sum() / min(i, j)
""",
    },
    "quantize_blocks": {
        "one absmax for everything": """
def quantize_blocks(weight_N, code_K, block):
    absmax = weight_N.abs().max()
    indices_N = (weight_N[:, None] / absmax - code_K).abs().argmin(dim=1)
    return indices_N, absmax.repeat(len(weight_N) // block)

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
""",
        "a block of zeros divided by zero": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled_N = (blocks / absmax[:, None]).reshape(-1)
    return (scaled_N[:, None] - code_K).abs().argmin(dim=1), absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
""",
        "the next lower value instead of the nearest": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled_N = (blocks / absmax.clamp(min=1e-12)[:, None]).reshape(-1)
    return torch.searchsorted(code_K, scaled_N, right=True) - 1, absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
""",
        "the largest value instead of the largest absolute value": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block)
    largest = blocks.amax(dim=1)
    divisor = torch.where(largest == 0, torch.ones_like(largest), largest)
    scaled_N = (blocks / divisor[:, None]).reshape(-1)
    return (scaled_N[:, None] - code_K).abs().argmin(dim=1), largest

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
""",
        "sign lost": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block).abs()
    absmax = blocks.amax(dim=1)
    scaled_N = (blocks / absmax.clamp(min=1e-12)[:, None]).reshape(-1)
    return (scaled_N[:, None] - code_K).abs().argmin(dim=1), absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
""",
        "a code with even steps assumed": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled_N = (blocks / absmax.clamp(min=1e-12)[:, None]).reshape(-1)
    return ((scaled_N + 1) / 2 * (len(code_K) - 1)).round().long(), absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
""",
        "absmax forgotten on the way back": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled_N = (blocks / absmax.clamp(min=1e-12)[:, None]).reshape(-1)
    return (scaled_N[:, None] - code_K).abs().argmin(dim=1), absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return code_K[indices_N]
""",
        "blocks taken with a stride": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(block, -1)
    absmax = blocks.abs().amax(dim=0)
    scaled_N = (blocks / absmax.clamp(min=1e-12)).reshape(-1)
    return (scaled_N[:, None] - code_K).abs().argmin(dim=1), absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return (code_K[indices_N].reshape(-1, len(absmax)) * absmax).reshape(-1)
""",
        "code values instead of indices": """
def quantize_blocks(weight_N, code_K, block):
    blocks = weight_N.reshape(-1, block)
    absmax = blocks.abs().amax(dim=1)
    scaled_N = (blocks / absmax.clamp(min=1e-12)[:, None]).reshape(-1)
    return code_K[(scaled_N[:, None] - code_K).abs().argmin(dim=1)], absmax

def dequantize_blocks(indices_N, absmax, code_K):
    return (indices_N.reshape(len(absmax), -1) * absmax[:, None]).reshape(-1)
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
    },
}
