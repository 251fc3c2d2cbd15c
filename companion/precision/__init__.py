"""Training in sixteen bits, and what repairs it. Chapter: course/08_precision.ipynb.

Read ``float_format.py`` first: what a number in few bits is. Then ``summation.py``, what sums lose;
``master_weights.py`` and ``loss_scaler.py``, the repairs; ``float8.py`` and ``autocast.py``. What
mainly the chapter calls: ``study``.
"""

from companion.precision.autocast import AutocastReport, CastOperation, autocast_report
from companion.precision.float8 import Float8Scaling
from companion.precision.float_format import (
    BF16,
    E4M3,
    E5M2,
    FP16,
    FP32,
    FP64,
    TF32,
    Fields,
    FloatFormat,
)
from companion.precision.loss_scaler import LossScaler
from companion.precision.master_weights import MasterWeights
from companion.precision.summation import DotProduct, accumulate, kahan_sum, stochastic_round

__all__ = [
    "BF16",
    "E4M3",
    "E5M2",
    "FP16",
    "FP32",
    "FP64",
    "TF32",
    "AutocastReport",
    "CastOperation",
    "DotProduct",
    "Fields",
    "Float8Scaling",
    "FloatFormat",
    "LossScaler",
    "MasterWeights",
    "accumulate",
    "autocast_report",
    "kahan_sum",
    "stochastic_round",
]
