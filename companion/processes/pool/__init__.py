"""Workers that stay: of ``WorkerPool`` and of ``speedup``, their program and their errors."""
