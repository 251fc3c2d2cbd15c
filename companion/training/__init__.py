"""What every training recipe shares: the loop, its checkpoints, its record, its command line.

Read ``loop.py`` first, then ``checkpoints.py``; ``precision.py`` is for steps in 16 bits,
``process_group.py`` for runs under torchrun.
"""

from companion.training.loop import Measures, Stateful, fit

__all__ = ["Measures", "Stateful", "fit"]
