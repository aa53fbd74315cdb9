"""Attention, sampling and matrix products in plain torch: what the CPU runs, and the reference for the kernels."""
