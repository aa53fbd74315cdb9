"""The engine in this process as a bench client, with the moments at which requests are admitted."""

import time
from collections.abc import AsyncIterator, Sequence

from engine.bench.drive import Sampling
from engine.config import EngineConfig
from engine.core.engine_core import EngineCore, SamplingParams
from engine.core.step_loop import StepResult
from engine.scheduler.request import Request
from engine.scheduler.scheduler import Scheduler


class TimedEngine(EngineCore):
    """Notes how long after its admission a request's first token came."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.step_started_at = 0.0
        self.reset_measurement()

    def reset_measurement(self) -> None:
        """Begin a new measurement."""
        self.admitted_at: dict[Request, float] = {}
        self.ttft_after_admission: list[float] = []

    def _tell(self, turn: StepResult) -> None:
        now = time.perf_counter()
        if turn.scheduled is not None:
            for request in turn.scheduled.new_requests:
                self.admitted_at[request] = self.step_started_at
        for output in turn.outputs:
            if output.token_ids and output.request in self.admitted_at:
                self.ttft_after_admission.append(now - self.admitted_at.pop(output.request))
        super()._publish(turn)

    def _take(self, scheduler: Scheduler, patience: float | None) -> None:
        super()._drain_inbox(scheduler, patience)
        self.step_started_at = time.perf_counter()  # the step that is planned next


class LocalClient:
    def __init__(self, engine: EngineCore) -> None:
        self._engine = engine

    async def stream(
        self, prompt: list[int], output: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=output, ignore_eos=True
        )
        async for ids in self._engine.submit(prompt, params, client=client, tenant=tenant):
            yield ids
