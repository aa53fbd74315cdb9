"""Serving benchmarks: the workloads, clients and measurements behind docs/performance.md."""
