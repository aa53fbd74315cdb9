"""Attention, sampling and matrix products in plain torch: what the CPU runs and what the kernels are tested against."""
