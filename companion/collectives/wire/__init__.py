"""Under every algorithm: peers, the order of calls, reductions, shared memory."""
