"""Rank 0's engine: requests in, token ids out. One thread owns torch; any thread may submit.

A step that fails or hangs ends the engine, never half of it: every reply in the making fails, and the launcher starts a
fresh group. It knows threads, and neither text nor HTTP.
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

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.core.output_processor import OutputProcessor, RequestState
from engine.core.request_stream import EngineDead, RequestFailed, RequestOutput, RequestStream
from engine.core.stats import WAIT_BOUNDS, EngineStats, Histogram
from engine.core.step_loop import StepLoop, StepResult, worker_loop
from engine.core.watchdog import Watchdog
from engine.core.worker import freeze_gc, start_worker
from engine.distributed.communicator import Communicator, connect, ignore_stop_signals
from engine.errors import EngineError, PromptTooLong
from engine.scheduler.request import Request, RequestStatus, SamplingParams, Usage
from engine.scheduler.scheduler import Scheduler

__all__ = [
    "EngineCore",
    "EngineDead",
    "RequestFailed",
    "RequestOutput",
    "RequestStream",
    "SamplingParams",
    "Usage",
    "run_worker",
]

EXIT_DELAY = 2.5  # seconds after a failure in which the server may tell its clients, before the process ends itself
JOIN_TIMEOUT = 10.0  # seconds that `close` waits for the running step
HUNG_STEP_FACTOR = 5.0  # a step is hung when it takes this many times the longest one at start (and `step_timeout`)
SHUTTING_DOWN = "The engine is shutting down."
FAILED_REPLY = "The engine failed while it was writing this reply."
NOT_A_NUMBER = "The model computed something that is not a number."


@dataclass(frozen=True, slots=True)
class _InboxItem:
    """What other threads leave for the torch thread. `reply` None: look up, the engine is being closed."""

    request: RequestState | None = None
    cancel: bool = False


class EngineCore:
    """Build it with `Engine.start`."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        self._config, self._vocab_size = config, vocab_size
        self._output_processor = OutputProcessor(config)
        self._inbox: queue.SimpleQueue[_InboxItem] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._seeds = random.Random(config.seed)  # noqa: S311 - draws of a model, not secrets
        self._failure: str | None = None
        self._failing = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._communicator: Communicator | None = None
        self._scheduler: Scheduler | None = None
        self._step_loop: StepLoop | None = None
        self._queue_time, self._first_token_time = Histogram(WAIT_BOUNDS), Histogram(WAIT_BOUNDS)

    @classmethod
    def start(cls, config: EngineConfig, checkpoint: Checkpoint) -> "EngineCore":
        """Rank 0: join the other ranks, load, warm up, start the thread. Blocks; raises ConfigError."""
        engine = cls(config, checkpoint.spec.vocab_size)
        started: Future[None] = Future()
        engine._thread = threading.Thread(
            target=engine._thread_main, args=(checkpoint, started), name="torch", daemon=True
        )
        engine._thread.start()
        started.result()
        return engine

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, client: str = "", tenant: str = ""
    ) -> RequestStream:
        """Queue a request. Raises PromptTooLong, Busy, EngineDead, or EngineError for what no model could do.

        Called on an event loop's thread, the ids arrive there; called elsewhere, use `Generation.result`.
        """
        ids = list(prompt_ids)
        self._validate(ids, params)
        loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            loop = asyncio.get_running_loop()
        seed = self._seeds.getrandbits(64) if params.seed is None else params.seed & (1 << 64) - 1
        request = Request(next(self._ids), ids, params, seed, client, tenant)
        generation = RequestStream(len(ids), lambda: self._inbox.put(_InboxItem(reply, cancel=True)), loop)
        reply = self._output_processor.add_request(request, generation)
        self._inbox.put(_InboxItem(reply))
        return generation

    @property
    def failure(self) -> str | None:
        """Why the engine no longer works, or None."""
        return self._failure

    def stats(self) -> EngineStats:
        """From any thread; counts may be a step apart."""
        if self._scheduler is None or self._step_loop is None:
            raise EngineDead("The engine has not started.")
        scheduler, totals, cache = self._scheduler, self._scheduler.totals, self._scheduler.cache
        return EngineStats(
            running=scheduler.num_running,
            waiting=max(0, len(self._output_processor) - scheduler.num_running),
            kv_tokens_used=cache.num_held_pages * cache.page_size,
            kv_tokens_cached=cache.num_cached_pages * cache.page_size,
            kv_tokens_total=cache.num_pages * cache.page_size,
            prompt_tokens=totals.prompt_tokens,
            prompt_tokens_computed=totals.num_prefilled_tokens,
            prompt_tokens_cached=totals.cached_tokens,
            tokens_generated=totals.output_tokens,
            preemptions=totals.preemptions,
            steps=totals.steps,
            finished=dict(totals.finished),
            step_time=self._step_loop.step_time.copy(),
            queue_time=self._queue_time.copy(),
            first_token_time=self._first_token_time.copy(),
            rank_memory=self._step_loop.rank_memory,
        )

    def close(self) -> None:
        """End what runs as cancelled, tell the other ranks to leave, join the thread. Blocks for at most a step."""
        self._output_processor.close(SHUTTING_DOWN)
        self._closed = True
        self._inbox.put(_InboxItem())
        if self._failure is None and self._thread is not None:
            self._thread.join(JOIN_TIMEOUT)
        if self._failure is not None and self._communicator is not None:
            self._communicator.kill_peers()

    def _validate(self, ids: list[int], params: SamplingParams) -> None:
        if not ids:
            raise EngineError("the prompt is empty")
        if len(ids) >= self._config.max_context:
            raise PromptTooLong(self._config.max_context - 1, len(ids))
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise EngineError(f"token ids must lie between 0 and {self._vocab_size - 1}")
        if params.max_tokens is not None and params.max_tokens < 1:
            raise EngineError(f"max_tokens must be at least 1, not {params.max_tokens}")
        if not (math.isfinite(params.temperature) and 0 <= params.top_p <= 1):
            raise EngineError("temperature must be a number, and top_p a number from 0 to 1")

    def _thread_main(self, checkpoint: Checkpoint, started: "Future[None]") -> None:
        """The torch thread."""
        config = self._config
        try:
            self._communicator = connect(config)
            booted = start_worker(config, checkpoint, self._communicator)
            self._scheduler = Scheduler(
                max_num_seqs=config.max_num_seqs,
                num_pages=booted.runner.num_kv_pages,
                max_prefill_tokens=config.max_prefill_tokens,
                burst_prefill_tokens=config.burst_prefill_tokens,
                max_context=config.max_context,
                page_size=config.page_size,
            )
            self._step_loop = StepLoop(config, self._scheduler, booted.runner, self._communicator)
        except BaseException as error:
            started.set_exception(error)
            return
        limit = max(config.step_timeout, HUNG_STEP_FACTOR * booted.slowest_step)
        watched = config.world_size > 1 or config.device.type == "cuda"
        watchdog = Watchdog(limit if watched else math.inf, self._on_hang)
        self._communicator.watch_peers(self._on_rank_lost)
        started.set_result(None)
        try:
            self._run_loop(self._step_loop, self._scheduler, watchdog)
        except BaseException as error:
            traceback.print_exc()
            self._fail(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))
        finally:
            watchdog.stop()

    def _run_loop(self, loop: StepLoop, scheduler: Scheduler, watchdog: Watchdog) -> None:
        idle = False
        while not self._closed:
            self._drain_inbox(scheduler, loop.seconds_until_heartbeat() if idle else 0.0)
            with watchdog.step():
                turn = loop.step()
            self._publish(turn)
            idle = turn.idle
        with watchdog.step():
            self._output_processor.finish_all("cancelled")
            loop.close()

    def _drain_inbox(self, scheduler: Scheduler, patience: float | None) -> None:
        """What other threads have left; waits up to `patience` seconds (None: without end) for the first of it."""
        with contextlib.suppress(queue.Empty):
            note = self._inbox.get(timeout=patience) if patience != 0.0 else self._inbox.get_nowait()
            while True:
                if note.request is not None:
                    self._handle_item(scheduler, note.request, note.cancel)
                note = self._inbox.get_nowait()

    def _handle_item(self, scheduler: Scheduler, reply: RequestState, cancel: bool) -> None:
        request = reply.request
        if not cancel:
            scheduler.add_request(request)
        elif request.status is not RequestStatus.FINISHED:
            scheduler.cancel_request(request)
            self._output_processor.publish([(reply, RequestOutput((), request.usage, "cancelled"))])

    def _publish(self, turn: StepResult) -> None:
        now = time.monotonic()
        if turn.scheduled is not None:
            for request in turn.scheduled.new_requests:
                self._queue_time.observe(now - self._output_processor[request].submitted_at)
        updates = []
        for output in turn.outputs:
            reply = self._output_processor[output.request]
            if output.token_ids and reply.first_token_at is None:
                reply.first_token_at = now
                self._first_token_time.observe(now - reply.submitted_at)
            error = NOT_A_NUMBER if output.finish_reason == "error" else None
            updates.append((reply, RequestOutput(output.token_ids, output.request.usage, output.finish_reason, error)))
        self._output_processor.publish(updates)

    def _on_hang(self, limit: float) -> None:
        """Called by the watchdog while the torch thread is stuck."""
        self._fail(f"a step did not end within {limit:.1f} s")

    def _on_rank_lost(self, rank: int, stopped: bool) -> None:
        """Another rank's process has ended, as they may once they were told to."""
        if not stopped:
            self._fail(f"rank {rank} has ended")

    def _fail(self, why: str) -> None:
        with self._failing:
            if self._failure is not None:
                return
            self._failure = why
        sys.stderr.write(f"engine: rank {self._config.rank}: {why}\n")
        self._output_processor.close(why)
        self._output_processor.finish_all("error", FAILED_REPLY)
        if self._config.exit_on_failure and (self._config.world_size > 1 or self._config.device.type == "cuda"):
            timer = threading.Timer(EXIT_DELAY, self._exit_process)
            timer.daemon = True
            timer.start()

    def _exit_process(self) -> None:
        """Nothing can be trusted any more: no destructor, no collective, no waiting for threads."""
        if self._communicator is not None:
            self._communicator.kill_peers()
        os._exit(1)


def run_worker(config: EngineConfig, checkpoint: Checkpoint) -> None:
    """Every other rank: load, then obey rank 0 until it says STOP. Ignores SIGTERM and SIGINT meanwhile.

    Raises ConfigError before it serves; once it does, any failure ends the process at once, so that the others notice.
    """
    ranks = connect(config)
    booted = start_worker(config, checkpoint, ranks)
    freeze_gc()
    ignore_stop_signals()
    ranks.watch_peers(_leave_with)
    try:
        worker_loop(booted.runner, ranks)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _leave_with(rank: int, stopped: bool) -> None:
    """Without rank 0 there is nothing left to do, whatever this rank is waiting for."""
    if not stopped:
        sys.stderr.write(f"engine: rank {rank} has ended\n")
        sys.stderr.flush()
    os._exit(0 if stopped else 1)
