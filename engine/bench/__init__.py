"""The workloads behind docs/performance.md."""
