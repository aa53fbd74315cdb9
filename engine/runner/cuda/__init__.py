"""The GPU runner: Triton kernels, recorded as CUDA graphs."""
