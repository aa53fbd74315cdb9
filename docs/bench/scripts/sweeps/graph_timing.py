"""Times launches on a GPU from a CUDA graph, which leaves out the host's time. It does not know what is launched."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

MEASUREMENTS, REPLAYS = 9, 4


def microseconds(launch: Callable[[int], None], count: int) -> float:
    """Time of one of `count` units: `launch(n)` launches n of them, which were run before. The median of MEASUREMENTS.

    Without a GPU, for a trial of a sweep, the host's time of one unit.
    """
    if not torch.cuda.is_available():
        started = time.perf_counter()
        launch(1)
        return (time.perf_counter() - started) * 1e6
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
    times: list[float] = []
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")  # torch.cuda.graph would collect garbage
        try:
            launch(count)
        finally:
            graph.capture_end()
        graph.replay()
        for _ in range(MEASUREMENTS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            for _ in range(REPLAYS):
                graph.replay()
            end.record()
            end.synchronize()
            times.append(float(start.elapsed_time(end)) * 1e3 / REPLAYS / count)
    return statistics.median(times)
