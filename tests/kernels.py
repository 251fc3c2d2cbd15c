"""One line that names the processor and what computes on it, so that a run can be repeated."""

import os
import re
import subprocess
import sys

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_info

from companion.measure.machine import machine

CHOOSING = r"OPENBLAS_|ATEN_|MKL_|ONEDNN_|DNNL_|OMP_|TORCH|TRITON_"


def onednn() -> str:
    """The instruction set that oneDNN chose: it tells on its first call, when asked to."""
    first_call = "import torch; torch.nn.functional.relu(torch.ones(1, 8, 8, 8).to_mkldnn())"
    said = subprocess.run(
        [sys.executable, "-c", first_call],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.search(r"isa:(.*)", said)
    return found[1] if found else "none"


def line() -> str:
    blas = {
        f"{pool['internal_api']} {pool['architecture']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return "; ".join(
        [
            machine("cpu"),
            f"NumPy: {', '.join(sorted(blas)) or 'no BLAS that threadpoolctl knows'}",
            f"torch: ATen {torch.backends.cpu.get_cpu_capability()}, oneDNN {onednn()}",
            f"threads {torch.get_num_threads()}",
            f"Python {sys.version.split()[0]}, torch {torch.__version__}, NumPy {np.__version__}, "
            f"SciPy {scipy.__version__}",
            *(f"{k}={v}" for k, v in sorted(os.environ.items()) if re.match(CHOOSING, k)),
        ]
    )


if __name__ == "__main__":
    print(line(), flush=True)
