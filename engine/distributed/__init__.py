"""Several ranks: process groups, rank 0's commands, tensor-parallel layers, symmetric memory between GPUs."""
