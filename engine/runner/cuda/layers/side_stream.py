"""A second stream of a step, for sums over ranks that run beside products. It knows events, and not what is launched.

A CUDA graph records both streams: the second one joins at `run`, and must be waited for before the step ends.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class SideStream:
    """What `run` launches waits for the kernels launched before, and `wait` makes later ones wait for it.

    It goes first where both streams have programs to start, as other ranks wait for it. On a CPU, for tests, there is
    one order of everything.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's
        self._done: dict[int, torch.cuda.Event] = {}

    def run(self, key: int, launch: Callable[[], None]) -> None:
        """Launch on the second stream. `key` is for `wait`."""
        if self._stream is None:
            launch()
            return
        self._stream.wait_event(_recorded())
        with torch.cuda.stream(self._stream):
            launch()
            self._done[key] = _recorded()

    def wait(self, key: int) -> None:
        """Later kernels of the current stream wait for what `run` launched last under this key, if it is not done."""
        done = self._done.pop(key, None)
        if done is not None:
            torch.cuda.current_stream().wait_event(done)


def _recorded() -> torch.cuda.Event:
    """An event after all that was launched on the current stream."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
    event.record()
    return event
