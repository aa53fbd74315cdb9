"""A benchmark client for an engine in this process, and engines that wait for their graphs and measure TTFT."""

import time
from collections.abc import AsyncIterator, Sequence

from engine.bench.drive import Sampling
from engine.config import EngineConfig
from engine.core.engine_core import EngineCore, SamplingParams
from engine.core.step_loop import StepResult
from engine.scheduler.request import Request
from engine.scheduler.scheduler import Scheduler


class PreparedEngine(EngineCore):
    """An engine whose caller can wait until its runner has recorded all steps."""

    def wait_until_prepared(self) -> None:
        """Return once the runner has recorded all steps, which it does while no request runs, or the engine failed."""
        while self._step_loop is not None and not self._step_loop.is_prepared and self.failure is None:
            time.sleep(0.05)


class TimedEngine(PreparedEngine):
    """An engine that records, for each request, the time from the start of its first step to its first token."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.step_started_at = 0.0
        self.reset_measurement()

    def reset_measurement(self) -> None:
        """Forget what was recorded."""
        self.admitted_at: dict[Request, float] = {}
        self.ttft_after_admission: list[float] = []

    def _publish(self, result: StepResult) -> None:
        now = time.perf_counter()
        if result.scheduled is not None:
            for request in result.scheduled.new_requests:
                self.admitted_at[request] = self.step_started_at
        for output in result.outputs:
            if output.token_ids and output.request in self.admitted_at:
                self.ttft_after_admission.append(now - self.admitted_at.pop(output.request))
        super()._publish(result)

    def _drain_inbox(self, scheduler: Scheduler, timeout: float | None) -> None:
        super()._drain_inbox(scheduler, timeout)
        self.step_started_at = time.perf_counter()  # the next step begins now


class LocalClient:
    """A benchmark client for an engine in this process."""

    def __init__(self, engine: EngineCore) -> None:
        self._engine = engine

    async def stream(
        self, prompt: list[int], output_len: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        """See `drive.Client`."""
        params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=output_len, ignore_eos=True
        )
        async for ids in self._engine.submit(prompt, params, client=client, tenant=tenant):
            yield ids
