"""From online softmax to FlashAttention. Chapter: course/09_flash.ipynb.

Read ``naive.py``, ``online.py``, ``tiled.py`` first: from the definition to tiles.
``triton/kernels/forward.py`` is the same loop for a GPU; ``attention.py`` and ``operators.py``
choose between them, and speak to autograd and the compiler. What mainly the chapter calls:
``study``.
"""

from companion.flash.attention import flash_attention
from companion.flash.backend import attention_backend
from companion.flash.decode import flash_decode
from companion.flash.merging import merge_partials
from companion.flash.naive import naive_attention
from companion.flash.online import OnlineTrace, merge_normalisers, online_softmax, safe_softmax
from companion.flash.study.cost import hbm_bytes
from companion.flash.tiled_function import tiled_attention
from companion.flash.varlen import flash_attention_varlen
from companion.measure.peak_memory import peak_bytes

__all__ = [
    "OnlineTrace",
    "attention_backend",
    "flash_attention",
    "flash_attention_varlen",
    "flash_decode",
    "hbm_bytes",
    "merge_normalisers",
    "merge_partials",
    "naive_attention",
    "online_softmax",
    "peak_bytes",
    "safe_softmax",
    "tiled_attention",
]
