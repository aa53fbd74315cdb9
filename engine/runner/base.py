"""A runner executes plans on this rank's device: it owns the rows of the batch, the KV pages and the forward.

It obeys: no queue, no stop token, no client. Every rank runs the same plans; the ids that a step samples are rank 0's
on all of them.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from engine.config import EngineConfig
from engine.model.transformer import Transformer
from engine.runner.cpu.build import library
from engine.runner.cpu.forward import NativeForward
from engine.runner.cpu.native_runner import NativeRunner
from engine.runner.memory import available_bytes, fit_pages, kv_bytes_per_page
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan

StepHandle = TypeVar("StepHandle")  # a launched step whose ids may not be there yet; what is inside is the runner's own


class Runner(Protocol[StepHandle]):
    """What the core asks of a runner. One thread calls it, in this order: launch n, (launch n + 1,) collect n, …

    launch: starts the step; must not wait for the device. The next plan may name the rows of this one in `decode`, as
      the ids that they feed never leave the device.
    collect: row -> id sampled in that step (`plan.sampled`), waiting until it is there. An id of -1 says that the
      row's logits held a NaN or no finite number; the runner itself must feed a harmless id (0) until it is freed.
    """

    num_kv_pages: int  # ids 0 … kv_pages - 1 may be granted

    def execute_async(self, plan: StepPlan) -> StepHandle: ...

    def wait(self, ticket: StepHandle) -> dict[int, int]: ...

    def allocated_bytes(self) -> int:
        """Bytes that this rank holds on its device."""
        ...

    def close(self) -> None:
        """Release the device: graphs first, as process groups must outlive them."""
        ...


AnyRunner: TypeAlias = Runner[Any]  # the core never looks into a ticket


def make_runner(config: EngineConfig, model: Transformer, agree: Callable[[int], int] = int) -> AnyRunner:
    """The runner for this device. `agree` settles all ranks on the least of their numbers: they need equal pages."""
    page_bytes = kv_bytes_per_page(model.spec, config)
    if config.device.type == "cuda":
        from engine.runner.cuda.cuda_runner import CudaRunner  # needs Triton, which machines without a GPU may lack

        runner = CudaRunner(config, model)
        runner.start(agree(fit_pages(config, page_bytes, available_bytes(config.device))))
        return runner
    pages = agree(fit_pages(config, page_bytes, available_bytes(config.device)))
    if config.native and NativeForward.fits(model, config) and (code := library()) is not None:
        return NativeRunner(code, config, model, pages)
    return TorchRunner(config, model, pages)


def warm_up(runner: AnyRunner, config: EngineConfig) -> float:
    """Run the longest step that a plan can ask for, so that what does not fit fails at start and not on a message.

    Every rank calls it before the first plan of rank 0. Returns the seconds that it took; no row is in use afterwards.
    """
    started = time.perf_counter()
    length = min(config.max_prefill_tokens, config.max_context - 1)
    start = config.max_context - 1 - length
    setup = NewSequence(0, 1.0, 0.5, 1)
    grants = tuple((0, index, index) for index in range(config.max_pages_per_seq))
    chunk = PrefillChunk(0, start, (0,) * length, True)
    runner.wait(runner.execute_async(StepPlan(0, (setup,), grants, (chunk,))))
    runner.wait(runner.execute_async(StepPlan(1, decode_rows=(0,))))
    runner.wait(runner.execute_async(StepPlan(2, freed_rows=(0,))))
    return time.perf_counter() - started
