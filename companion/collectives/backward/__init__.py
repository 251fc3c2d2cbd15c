"""Under data parallelism and ZeRO: buckets, and what happens during backward."""
