"""The runner for GPUs: Triton kernels, recorded as CUDA graphs."""
