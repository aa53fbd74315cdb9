"""Runners execute a step plan on one rank's device: plain torch, CUDA graphs, or compiled code on a CPU."""
