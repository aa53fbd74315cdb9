"""Triton kernels of the GPU path. Each has a plain torch twin in `twins.py` that says what it computes.

Importing this package imports Triton; nothing on the CPU path does.
"""
