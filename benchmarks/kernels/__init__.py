"""The kernels by themselves, each way: what they move, what their machine code takes, and, on a GPU, how near they come to their floor."""

from benchmarks.kernels import images, losses, tokens

CASES = [*tokens.CASES, *images.CASES, *losses.CASES]
