"""The Triton back end: the nearest-code kernel and its launch."""
