"""The Triton back end: kernels, their launch and their tiles."""
