"""Triton kernels of the GPU path. tests/engine/kernels/reference.py says in plain torch what each one computes.

Importing a module of this package imports Triton; nothing on the CPU path does.
"""
