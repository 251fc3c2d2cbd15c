"""A small decoder-only transformer, with its parts passed in and not edited in.

Read ``config.py`` for the sizes, ``model.py`` from its end upwards, then ``rotary.py`` and
``attention.py``; ``cache.py`` is for decoding.
"""

from companion.transformer.attention import SelfAttention, torch_attention
from companion.transformer.cache import KVCache
from companion.transformer.config import TransformerConfig
from companion.transformer.model import Block, RMSNorm, Transformer
from companion.transformer.rotary import rotate, rotation_at

__all__ = [
    "Block",
    "KVCache",
    "RMSNorm",
    "SelfAttention",
    "Transformer",
    "TransformerConfig",
    "rotate",
    "rotation_at",
    "torch_attention",
]
