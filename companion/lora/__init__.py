"""Low-rank adaptation of frozen models. Chapter: course/07_lora.ipynb.

Read ``low_rank.py`` and ``linear.py`` first: one adapted layer. A whole model: ``injection.py`` and
``merging.py``. What PEFT reads: ``peft_files``. A base in four bits: ``four_bit``. The recipe:
``train.py``, with ``companion.language``. Mainly for the chapter: ``analysis.py``, ``study``.
"""

from companion.lora.analysis import (
    amplification,
    projected_norm,
    random_similarity,
    rank_for_energy,
    subspace_similarity,
    subspace_similarity_grid,
    svd_of_product,
)
from companion.lora.convolution import LoRAConv2d
from companion.lora.dora import DoRALinear
from companion.lora.embedding import LoRAEmbedding
from companion.lora.four_bit.nf4 import QuantizedWeight, nf4_code, nf4_quantize
from companion.lora.four_bit.quantized import QuantizedLinear, dequantize_base_, quantize_base_
from companion.lora.injection import add_lora, lora_layers, lora_parameters, remove_lora_
from companion.lora.layer import LoRALayer
from companion.lora.linear import LoRALinear
from companion.lora.lora_plus import lora_plus_groups
from companion.lora.low_rank import add_low_rank, add_low_rank_reference, lora_delta
from companion.lora.merging import merge_lora_, unmerge_lora_
from companion.lora.peft_files.folder import load_lora, save_lora
from companion.lora.pissa import init_pissa_

__all__ = [
    "DoRALinear",
    "LoRAConv2d",
    "LoRAEmbedding",
    "LoRALayer",
    "LoRALinear",
    "QuantizedLinear",
    "QuantizedWeight",
    "add_lora",
    "add_low_rank",
    "add_low_rank_reference",
    "amplification",
    "dequantize_base_",
    "init_pissa_",
    "load_lora",
    "lora_delta",
    "lora_layers",
    "lora_parameters",
    "lora_plus_groups",
    "merge_lora_",
    "nf4_code",
    "nf4_quantize",
    "projected_norm",
    "quantize_base_",
    "random_similarity",
    "rank_for_energy",
    "remove_lora_",
    "save_lora",
    "subspace_similarity",
    "subspace_similarity_grid",
    "svd_of_product",
    "unmerge_lora_",
]
