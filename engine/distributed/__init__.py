"""Ranks: process groups, the commands that rank 0 sends, tensor-parallel layers, memory shared between GPUs."""
