"""Runners execute step plans on one rank's device: in plain torch, as CUDA graphs, or in compiled C++ on a CPU."""
