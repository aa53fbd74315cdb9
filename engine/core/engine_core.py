"""Rank 0's engine: requests in, token ids out.

One thread, the engine thread, runs the step loop and is the only one that calls torch. Other threads meet it twice:

    in   `submit` and `RequestStream.cancel` put an item into `_inbox`, which the engine thread empties before each step
    out  after each step the engine thread publishes the new ids; `OutputProcessor` passes them to the callers' event
         loops with `call_soon_threadsafe`

A step that fails or hangs ends the whole engine: every unfinished reply fails, the process exits, and the launcher
starts a fresh group. It knows threads, but neither text nor HTTP.
"""

import asyncio
import contextlib
import itertools
import math
import os
import queue
import random
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Self

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.core.erasures import Erasure, PendingErasures
from engine.core.garbage import FullCollections
from engine.core.kv_files.cache_files import CacheFiles
from engine.core.kv_files.rank_files import open_files
from engine.core.output_processor import OutputProcessor, RequestState
from engine.core.request_stream import EngineDead, RequestFailed, RequestOutput, RequestStream
from engine.core.stats import WAIT_BOUNDS, EngineStats, Histogram
from engine.core.step_loop import StepLoop, StepResult
from engine.core.validation import validate_request
from engine.core.watchdog import Watchdog
from engine.core.worker import Worker, scheduler_from_config, start_worker
from engine.distributed.communicator import Communicator, connect
from engine.load_progress import RESTORING, LoadProgress
from engine.logits_params import TokenConstraint
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler

__all__ = ["EngineCore", "EngineDead", "RequestFailed", "RequestStream", "SamplingParams"]

EXIT_DELAY: Final = 2.5  # seconds between a failure and the exit of the process, for the server to tell its clients
JOIN_TIMEOUT: Final = 10.0  # seconds that `close` waits for the running step
HUNG_STEP_FACTOR: Final = 5.0  # a hung step takes longer than this many slowest warm-up steps, and than `step_timeout`
SHUTTING_DOWN: Final = "The engine is shutting down."
FAILED_REPLY: Final = "The engine failed while it was writing this reply."
NOT_ERASED: Final = "The files of the KV cache can neither be written nor deleted."
NOT_A_NUMBER: Final = "The model computed something that is not a number."


@dataclass(frozen=True, slots=True)
class _InboxItem:
    """A message to the engine thread: a new request, its cancellation, an erasure, or nothing but a wake-up."""

    state: RequestState | None = None
    cancel: bool = False
    erasure: Erasure | None = None


class EngineCore:
    """Build it with `EngineCore.start`."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        self._config, self._vocab_size = config, vocab_size
        self._output_processor = OutputProcessor(config)
        self._inbox: queue.SimpleQueue[_InboxItem] = queue.SimpleQueue()
        self._erasures = PendingErasures()
        self._request_ids = itertools.count()
        self._seeds = random.Random(config.seed)  # noqa: S311 - seeds of samplers, not secrets
        self._failure: str | None = None
        self._failure_lock = threading.Lock()
        self._closed = self._has_stopped = False
        self._thread: threading.Thread | None = None
        self._communicator: Communicator | None = None
        self._scheduler: Scheduler | None = None
        self._step_loop: StepLoop | None = None
        self._cache_files: CacheFiles | None = None
        self._queue_time, self._first_token_time = Histogram(WAIT_BOUNDS), Histogram(WAIT_BOUNDS)

    @classmethod
    def start(cls, config: EngineConfig, checkpoint: Checkpoint, progress: LoadProgress | None = None) -> Self:
        """Join the other ranks, load, warm up, start the engine thread. Blocks; raises ConfigError.

        `progress` tells other threads how far it is.
        """
        engine = cls(config, checkpoint.spec.vocab_size)
        started: Future[None] = Future()
        engine._thread = threading.Thread(
            target=engine._thread_main, args=(checkpoint, started, progress), name="engine", daemon=True
        )
        engine._thread.start()
        started.result()
        return engine

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        client: str = "",
        tenant: str = "",
        constraint: TokenConstraint | None = None,
    ) -> RequestStream:
        """Queue a request, from any thread. Raises PromptTooLong, Busy, EngineDead, or EngineError for bad arguments.

        On an event loop's thread, ids arrive on that loop. On any other thread, call `RequestStream.result`.
        """
        token_ids = list(prompt_ids)
        validate_request(token_ids, params, max_context=self._config.max_context, vocab_size=self._vocab_size)
        loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            loop = asyncio.get_running_loop()
        seed = self._seeds.getrandbits(64) if params.seed is None else params.seed & (1 << 64) - 1
        request = Request(next(self._request_ids), token_ids, params, seed, client, tenant, constraint)
        stream = RequestStream(len(token_ids), lambda: self._inbox.put(_InboxItem(state, cancel=True)), loop)
        state = self._output_processor.add_request(request, stream)
        self._inbox.put(_InboxItem(state))
        return stream

    def erase(self, tenant: str) -> "Future[int]":
        """Drop and overwrite what is cached of a tenant's prompts and replies, on all ranks; from any thread.

        What its unfinished requests hold goes when they end. The result is the number of pages that no later prompt
        finds. Raises EngineDead, here or as the result.
        """
        if self._failure is not None or self._closed:
            raise EngineDead(self._failure or SHUTTING_DOWN)
        erasure = Erasure(tenant)
        self._inbox.put(_InboxItem(erasure=erasure))
        return erasure.done

    @property
    def config(self) -> EngineConfig:
        """Once started, with the rows and the context that memory allows."""
        return self._config

    @property
    def failure(self) -> str | None:
        """Why the engine no longer works, or None."""
        return self._failure

    def stats(self) -> EngineStats:
        """Callable from any thread; the numbers may come from two consecutive steps. Raises EngineDead before start."""
        if self._scheduler is None or self._step_loop is None:
            raise EngineDead("The engine has not started.")
        scheduler, totals, cache = self._scheduler, self._scheduler.totals, self._scheduler.cache
        return EngineStats(
            running=scheduler.num_running,
            waiting=max(0, len(self._output_processor) - scheduler.num_running),
            kv_tokens_used=cache.num_held_pages * cache.page_size,
            kv_tokens_cached=cache.num_cached_pages * cache.page_size,
            kv_tokens_total=cache.num_pages * cache.page_size,
            kv_host_tokens_used=cache.num_saved_pages * cache.page_size,
            kv_host_tokens_total=cache.host.num_slots * cache.page_size,
            prompt_tokens=totals.prompt_tokens,
            prompt_tokens_computed=totals.num_prefilled_tokens,
            prompt_tokens_cached=totals.cached_tokens,
            kv_tokens_saved=cache.host.num_saved_pages * cache.page_size,
            kv_tokens_restored=cache.host.num_restored_pages * cache.page_size,
            kv_tokens_evicted=(cache.num_evicted_pages + cache.host.num_evicted_slots) * cache.page_size,
            tokens_generated=totals.output_tokens,
            preemptions=totals.preemptions,
            steps=totals.steps,
            drafted_tokens=totals.drafted_tokens,
            accepted_tokens=totals.accepted_tokens,
            finished=dict(totals.finished),
            step_time=self._step_loop.step_time.copy(),
            queue_time=self._queue_time.copy(),
            first_token_time=self._first_token_time.copy(),
            rank_memory=self._step_loop.rank_memory,
            kv_tokens_reloaded=self._cache_files.num_restored_pages * cache.page_size if self._cache_files else 0,
        )

    def close(self) -> None:
        """Cancel unfinished requests, send STOP to the other ranks, join the thread.

        Blocks for at most one step, and until the memory is free.
        """
        self._output_processor.close(SHUTTING_DOWN)
        self._closed = True
        self._inbox.put(_InboxItem())
        if self._failure is None and self._thread is not None:
            self._thread.join(JOIN_TIMEOUT)
            if self._has_stopped:
                self._thread.join()  # it gives memory back, which takes seconds for a large host tier
        if self._failure is not None and self._communicator is not None:
            self._communicator.kill_peers()

    def _thread_main(
        self, checkpoint: Checkpoint, started: "Future[None]", progress: LoadProgress | None = None
    ) -> None:
        """The engine thread."""
        config = self._config
        try:
            self._communicator = connect(config)
            worker = start_worker(config, checkpoint, self._communicator, progress)
            config = self._config = worker.config
            self._output_processor = OutputProcessor(config)
            self._scheduler = scheduler_from_config(config, worker)
            self._step_loop = StepLoop(config, self._scheduler, worker.runner, self._communicator)
            self._cache_files = self._open_cache_files(checkpoint, worker, self._scheduler, self._step_loop, progress)
        except BaseException as error:
            started.set_exception(error)
            return
        limit = max(config.step_timeout, HUNG_STEP_FACTOR * worker.slowest_step)
        can_hang = config.world_size > 1 or config.device.type == "cuda"
        watchdog = Watchdog(limit if can_hang else math.inf, self._on_hang)
        self._communicator.watch_peers(self._on_rank_lost)
        started.set_result(None)
        try:
            self._run_loop(self._step_loop, self._scheduler, watchdog)
        except BaseException as error:
            traceback.print_exc()
            self._fail(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))
        finally:
            watchdog.stop()
            self._fail_erasures()

    def _open_cache_files(
        self,
        checkpoint: Checkpoint,
        worker: Worker,
        scheduler: Scheduler,
        step_loop: StepLoop,
        progress: LoadProgress | None,
    ) -> CacheFiles | None:
        files = open_files(worker.config, checkpoint, worker, lambda: self._inbox.put(_InboxItem()))
        communicator = self._communicator
        if files is None or communicator is None:
            return None
        page_bytes, world_size = worker.runner.page_bytes, worker.config.world_size
        cache_files = CacheFiles(scheduler.cache, files, communicator, page_bytes=page_bytes, world_size=world_size)
        if progress is not None:
            progress.begin(RESTORING)
        cache_files.start(step_loop.learn_ready_slots)
        return cache_files

    def _fail_erasures(self) -> None:
        """Those whose pages are not overwritten yet, and those that the engine thread has not seen."""
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._inbox.get_nowait()
                if item.erasure is not None:
                    self._erasures.add(item.erasure, 0)
        self._erasures.fail(self._failure or SHUTTING_DOWN)

    def _run_loop(self, step_loop: StepLoop, scheduler: Scheduler, watchdog: Watchdog) -> None:
        idle, collections = False, FullCollections()
        while not self._closed:
            self._drain_inbox(scheduler, self._seconds_until_due(step_loop, collections) if idle else 0.0)
            with watchdog.step():
                result = step_loop.step()
            self._publish(result)
            # Outside the watchdog: preparing may compile.
            idle = not step_loop.prepare(idle=result.idle) and result.idle
            if self._cache_files is not None:
                idle = not self._cache_files.step(idle=result.idle) and idle
            if self._erasures and not scheduler.cache.has_waiting_overwrites:
                self._answer_erasures()
            collections.step(idle=idle)
        with watchdog.step():
            self._output_processor.finish_all("cancelled")
            if self._cache_files is not None:
                scheduler.cancel_running()
        if self._cache_files is not None:
            self._cache_files.close()  # outside the watchdog: it writes what is not in the file yet
        with watchdog.step():
            step_loop.stop()
        self._has_stopped = True
        step_loop.close()

    def _seconds_until_due(self, step_loop: StepLoop, collections: FullCollections) -> float | None:
        """Seconds that the engine thread may sleep when it is idle; None: until something arrives."""
        files = None if self._cache_files is None else self._cache_files.seconds_until_due()
        due = (step_loop.seconds_until_heartbeat(), files, collections.seconds_until_due())
        return min((seconds for seconds in due if seconds is not None), default=None)

    def _answer_erasures(self) -> None:
        """Those whose pages are overwritten, once they are in no file either."""
        erased = True if self._cache_files is None else self._cache_files.is_erased()
        if erased is None:
            self._erasures.fail(NOT_ERASED)
        elif erased:
            self._erasures.finish()

    def _drain_inbox(self, scheduler: Scheduler, timeout: float | None) -> None:
        """Handle all items; wait at most `timeout` seconds (None: without limit) for the first one."""
        with contextlib.suppress(queue.Empty):
            item = self._inbox.get(timeout=timeout) if timeout != 0.0 else self._inbox.get_nowait()
            while True:
                if item.erasure is not None:
                    self._erasures.add(item.erasure, scheduler.erase(item.erasure.tenant))
                    if self._cache_files is not None:
                        self._cache_files.erase(item.erasure.tenant)
                elif item.state is not None:
                    self._handle_item(scheduler, item.state, item.cancel)
                item = self._inbox.get_nowait()

    def _handle_item(self, scheduler: Scheduler, state: RequestState, cancel: bool) -> None:
        request = state.request
        if not cancel:
            scheduler.add_request(request)
        elif request.status is not RequestStatus.FINISHED:
            scheduler.cancel_request(request)
            self._output_processor.publish([(state, RequestOutput((), request.usage, "cancelled"))])

    def _publish(self, result: StepResult) -> None:
        """Record waiting times and send the step's outputs to their callers."""
        now = time.monotonic()
        if result.scheduled is not None:
            for request in result.scheduled.new_requests:
                state = self._output_processor[request]
                state.stream.first_step_at = result.started_at
                self._queue_time.observe(now - state.submitted_at)
        outputs = []
        for output in result.outputs:
            state = self._output_processor[output.request]
            if output.token_ids and state.first_token_at is None:
                state.first_token_at = state.stream.first_token_at = now
                self._first_token_time.observe(now - state.submitted_at)
            error = output.error or NOT_A_NUMBER if output.finish_reason == "error" else None
            usage = output.request.usage
            reason = output.finish_reason
            outputs.append((state, RequestOutput(output.token_ids, usage, reason, error, output.logprobs)))
        self._output_processor.publish(outputs)

    def _on_hang(self, limit: float) -> None:
        """Called from the watchdog's thread while the engine thread is stuck."""
        self._fail(f"a step did not end within {limit:.1f} s")

    def _on_rank_lost(self, rank: int, stopped: bool) -> None:
        """Called from the process monitor's thread. After STOP (`stopped`) the other ranks are expected to end."""
        if not stopped:
            self._fail(f"rank {rank} has ended")

    def _fail(self, reason: str) -> None:
        """Fail all unfinished requests and end the process soon. Only the first failure counts."""
        with self._failure_lock:
            if self._failure is not None:
                return
            self._failure = reason
        sys.stderr.write(f"engine: rank {self._config.rank}: {reason}\n")
        self._output_processor.close(reason)
        self._output_processor.finish_all("error", FAILED_REPLY)
        if self._config.exit_on_failure and (self._config.world_size > 1 or self._config.device.type == "cuda"):
            timer = threading.Timer(EXIT_DELAY, self._exit_process)
            timer.daemon = True
            timer.start()

    def _exit_process(self) -> None:
        """Exit without destructors, collectives or joins, any of which may hang after a failure."""
        if self._communicator is not None:
            self._communicator.kill_peers()
        os._exit(1)
