"""The runner for a GPU: a plan becomes a few integers in an input buffer, and the replay of a recorded step.

Row state lives on the device and advances inside the graph. A step that only decodes needs nothing from the host but
its slots' rows, and those only when they change. The host runs one step ahead, and never waits for the device in
`execute_async`.

It knows plans, graphs and copies. `CudaForward` knows what a step computes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch

from engine.config import EngineConfig
from engine.distributed import symmetric_memory
from engine.kernels import pointwise
from engine.layers.paged_kv import PagedKV
from engine.load_progress import RECORDING, LoadProgress
from engine.logits_params import TokenLogprobs
from engine.model.transformer import Transformer
from engine.runner.cuda.batch.input_batch import BatchShape, BatchState
from engine.runner.cuda.batch.input_buffers import MAX_PAGE_GRANTS, InputBuffers, batch_shapes, first_shapes
from engine.runner.cuda.batch.prefix_limits import prefix_limits
from engine.runner.cuda.batch.shared_prefixes import PrefixGroups, SharedPrefixes
from engine.runner.cuda.batch.verify_limits import draft_limits, verify_limits
from engine.runner.cuda.batch.verify_lists import num_tokens
from engine.runner.cuda.forward import CudaForward
from engine.runner.cuda.host_tier.host_pages import CudaHostPages
from engine.runner.cuda.layers.collectives import ArenaFactory
from engine.runner.cuda.resampling import Resampler
from engine.runner.cuda.step_handle import CudaStepHandle
from engine.runner.host_pages import HostPages
from engine.runner.memory import allocated_bytes, kv_storage
from engine.runner.page_images import PageImages, page_bytes
from engine.scheduler.drafts.verification import VerifiedRun
from engine.scheduler.step_plan import StepPlan

# A step that takes longer to record had kernels compiled, as on a machine's first start. The others are then recorded
# at once: compiling them later would hold up replies for seconds.
COLD_SECONDS = 0.25
TIMED_STEPS = 4  # to find out what drafts cost
NUM_HOST_BUFFERS = 4  # host buffers used in turn; must exceed the steps in flight


class CudaRunner:
    """A `Runner` for one GPU; on a CPU, in Triton's interpreter, for tests."""

    drafts_by_default = True  # measured: see docs/performance.md. Rounding depends on the rows of a step anyway

    def __init__(
        self,
        config: EngineConfig,
        model: Transformer,
        create_arena: ArenaFactory | None = None,
        *,
        shapes: Sequence[BatchShape] | None = None,
    ) -> None:
        """Allocates everything but the KV pages; call `start` with their number before anything else.

        `create_arena` makes the memory that ranks share; by default that of the GPUs, where they can reach each other.
        `shapes`: the only shapes that steps will have; by default all that the configuration allows.
        """
        self.num_kv_pages = self.num_host_slots = 0
        self._host_pages: CudaHostPages | HostPages | None = None
        self.page_bytes = 0
        self._config, self._model, self._device = config, model, config.device
        self._gpu = config.device.type == "cuda"
        prefixes = prefix_limits(config, model)
        self._prefixes = None if prefixes is None else SharedPrefixes(prefixes, config)
        verify = verify_limits(config, model)
        self._verify = verify
        self.draft_limits = draft_limits(config, model, verify)
        self._shapes = shapes or batch_shapes(config, prefixes=prefixes, verify=verify)
        create_arena = create_arena or partial(symmetric_memory.create_arena, device=config.device, rank=config.rank)
        self._input_buffers = InputBuffers(
            config.max_num_seqs, self._shapes, gpu=self._gpu, heads=model.blocks[0].heads,
            head_dim=model.spec.head_dim, prefixes=prefixes, verify=verify,
        )  # fmt: skip
        max_samples = max(config.max_num_seqs, *(self._input_buffers.max_samples(shape) for shape in self._shapes))
        self._forward = CudaForward(
            config, model, create_arena, max_tokens=max(shape.num_tokens for shape in self._shapes),
            max_slots=config.max_num_seqs, max_samples=max_samples,
        )  # fmt: skip
        # One row more than there are sequences, which no sequence gets.
        self._batch_state = BatchState.allocate(config.max_num_seqs + 1, config.max_pages_per_seq, config.device)
        self._resampler = Resampler(config, self._forward, self._batch_state)
        size = self._input_buffers.size()
        self._device_buffer = torch.zeros(size, dtype=torch.int32, device=config.device)
        self._host_buffers = [
            torch.zeros(size, dtype=torch.int32, pin_memory=self._gpu) for _ in range(NUM_HOST_BUFFERS)
        ]
        self._host_ids = [
            torch.zeros(max_samples, dtype=torch.int32, pin_memory=self._gpu) for _ in range(NUM_HOST_BUFFERS)
        ]
        self._copies_done: list[torch.cuda.Event | None] = [None] * NUM_HOST_BUFFERS  # by host buffer
        self._graphs: dict[BatchShape, torch.cuda.CUDAGraph] = {}
        self._unrecorded: list[BatchShape] = []
        self._stream = torch.cuda.Stream(config.device) if self._gpu else None  # type: ignore[no-untyped-call]  # torch's
        self._host_buffer_index = self._host_ids_index = 0
        # The shape, decode rows and groups of them that the device holds as input; None if it holds anything else.
        self._last_decode: tuple[BatchShape, tuple[int, ...], PrefixGroups | None] | None = None

    def start(
        self,
        num_kv_pages: int,
        num_host_slots: int = 0,
        progress: LoadProgress | None = None,
        wait_for_weights: Callable[[], None] = lambda: None,
    ) -> None:
        """Allocate the KV pages and the host tier, then run and record steps: with several ranks, which must do it
        together, of every shape; with one, of enough shapes for any plan. `prepare` records the others.

        Steps can be recorded before the weights are read; nothing else is done before `wait_for_weights` returns.
        """
        self.num_kv_pages, self.num_host_slots = num_kv_pages, num_host_slots
        config, spec = self._config, self._model.spec
        kv = PagedKV(
            spec.n_layers, num_kv_pages, config.page_size, self._model.kv_heads, spec.head_dim, kv_storage(config),
            config.device,
        )  # fmt: skip
        self.page_bytes = page_bytes(kv.parts)
        self._forward.attention.use_pages(kv)
        if not self._gpu:
            self._host_pages = HostPages(kv, num_host_slots)
            wait_for_weights()
            return
        if self._stream is not None:
            # Buffers and pages are initialized on the present stream, on which weights may be copied meanwhile.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        records = config.cuda_graphs and not config.share_gpu
        # The largest first: their memory serves the others. What no plan needs comes last.
        self._unrecorded = sorted(
            self._shapes, key=lambda shape: (shape.shares_prefixes, -shape.num_tokens, shape.num_slots)
        )
        first = first_shapes(self._shapes) if records and config.world_size == 1 else set(self._shapes)
        chosen = [shape for shape in self._unrecorded if shape in first]
        progress = progress or LoadProgress()
        stage = progress.begin(RECORDING, len(chosen))
        started = time.perf_counter()
        for shape in chosen:
            self._warm_up(shape, record=records)
            stage.advance()
        if records and time.perf_counter() - started > COLD_SECONDS * len(chosen):
            stage = progress.begin(RECORDING, len(self._unrecorded))
            while self.prepare():
                stage.advance()
        wait_for_weights()
        if self._verify is not None and config.world_size == 1:  # ranks may have to plan the same steps
            self._measure_drafts()
        self._host_pages = CudaHostPages(kv, num_host_slots, config.device)

    def prepare(self) -> bool:
        """Record one more shape; False if all are recorded. See `Runner`."""
        if self._unrecorded:
            self._warm_up(self._unrecorded[0], record=True)
            return True
        return False

    @torch.inference_mode()
    def _warm_up(self, shape: BatchShape, *, record: bool) -> None:
        """Run a step of this shape without rows, which loads its kernels, then record it."""
        self._last_decode = None
        self._unrecorded.remove(shape)
        with torch.cuda.stream(self._stream):
            self._device_buffer.copy_(
                self._input_buffers.fill(torch.zeros_like(self._host_buffers[0]), StepPlan(0), shape)
            )
            self._run(shape)
            torch.cuda.current_stream().synchronize()
            if not record:
                return
            graph = torch.cuda.CUDAGraph()
            # Without torch.cuda.graph, which collects garbage each time. Another thread may pin memory meanwhile.
            pool = next((other.pool() for other in self._graphs.values()), None)
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self._run(shape)
            finally:
                graph.capture_end()
            self._graphs[shape] = graph

    def _measure_drafts(self) -> None:
        """Find out what drafts cost, with steps that have no rows: their products take as long as any."""
        verifying = sorted((shape for shape in self._recorded if shape.verifies), key=lambda shape: shape.num_tokens)
        few, many = verifying[0], verifying[-1]
        decode, least, most = (self._seconds(shape) for shape in (BatchShape(1, 0), few, many))
        token = (most - least) / max(1, many.num_tokens - few.num_tokens)
        self.draft_limits = draft_limits(self._config, self._model, self._verify, (least / decode - 1, token / decode))

    @torch.inference_mode()
    def _seconds(self, shape: BatchShape) -> float:
        """The least time of a step of this shape without rows."""
        self._last_decode = None
        least = math.inf
        with torch.cuda.stream(self._stream):
            self._device_buffer.copy_(
                self._input_buffers.fill(torch.zeros_like(self._host_buffers[0]), StepPlan(0), shape)
            )
            for _ in range(TIMED_STEPS):
                if self._gpu:
                    torch.cuda.synchronize(self._device)
                started = time.perf_counter()
                self._launch(shape)
                if self._gpu:
                    torch.cuda.synchronize(self._device)
                least = min(least, time.perf_counter() - started)
        return least

    @property
    def _recorded(self) -> Iterable[BatchShape]:
        """The shapes that steps may have: those that are recorded, if any are."""
        return self._graphs or self._shapes

    def _launch(self, shape: BatchShape) -> None:
        if shape in self._graphs:
            self._graphs[shape].replay()
        else:
            self._run(shape)

    @torch.inference_mode()
    def execute_async(self, plan: StepPlan) -> CudaStepHandle:
        """Launch a step; see `Runner`."""
        if self._stream is None:
            return self._execute(plan)
        with torch.cuda.stream(self._stream):
            return self._execute(plan)

    def _execute(self, plan: StepPlan) -> CudaStepHandle:
        self._resampler.update(plan)
        groups = None
        if self._prefixes is not None:
            self._prefixes.update(plan)
            groups = None if plan.verifications else self._prefixes.groups(plan.decode_rows)
        page_grants = plan.page_grants
        while len(page_grants) > MAX_PAGE_GRANTS:
            self._copy_inputs(StepPlan(plan.step, page_grants=page_grants[:MAX_PAGE_GRANTS]), self._shapes[0])
            self._apply_updates()
            page_grants = page_grants[MAX_PAGE_GRANTS:]
        plan = replace(plan, page_grants=page_grants)
        shape = self._batch_shape(plan, share_prefixes=groups is not None)
        only_decodes = not (plan.new_sequences or plan.page_grants or plan.chunks or plan.verifications)
        if shape is None:
            if not only_decodes:
                self._copy_inputs(plan, self._shapes[0])
                self._apply_updates()
            self._copy_pages(plan)
            # Waiting for a step that only copies is waiting for the copies: not too many may be on their way.
            copied = self._host_pages.last_event if isinstance(self._host_pages, CudaHostPages) else None
            return CudaStepHandle((), self._host_ids[0], copied if plan.copies else None)
        if not only_decodes or self._last_decode != (shape, plan.decode_rows, groups):
            self._copy_inputs(plan, shape, groups)
            # Its new sequences and grants are applied again with each replay, which changes nothing.
            reads_host = plan.chunks or plan.verifications
            self._last_decode = (shape, plan.decode_rows, groups) if not reads_host else None
        # After the inputs: the device copies them in turn with pages, and the step would wait for all of these.
        self._copy_pages(plan)
        self._launch(shape)
        self._resampler.resample(plan)
        return self._handle(plan)

    def wait(self, handle: CudaStepHandle) -> dict[int, int]:
        """The ids that a step sampled; see `Runner`."""
        return handle.id_by_row()

    def logprobs(self, handle: CudaStepHandle) -> dict[int, TokenLogprobs]:
        """Log-probabilities of a step's ids; see `Runner`."""
        return handle.logprobs_by_row()

    def verified(self, handle: CudaStepHandle) -> dict[int, VerifiedRun]:
        """The ids of rows that verified drafts; see `Runner`."""
        return handle.verified_by_row()

    @property
    def num_ready_slots(self) -> int:
        """Slots of the host tier that are pinned; see `Runner`."""
        return self._host_pages.num_ready if isinstance(self._host_pages, CudaHostPages) else self.num_host_slots

    @torch.inference_mode()
    def export_pages(self, places: Sequence[tuple[int, int]]) -> PageImages:
        """Copies of pages and slots; see `Runner`."""
        if self._host_pages is None:
            raise RuntimeError("the runner has no pages")
        with torch.cuda.stream(self._stream):
            return self._host_pages.export(places)

    @torch.inference_mode()
    def import_pages(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """Write pages and slots; see `Runner`."""
        if self._host_pages is None:
            raise RuntimeError("the runner has no pages")
        with torch.cuda.stream(self._stream):
            self._host_pages.import_(places, images)

    def allocated_bytes(self) -> int:
        """Bytes that this rank holds on its device."""
        return allocated_bytes(self._device)

    def close(self) -> None:
        """Free the graphs, the KV pages and the host tier."""
        if self._stream is not None:
            self._stream.synchronize()
        if isinstance(self._host_pages, CudaHostPages):
            self._host_pages.close()
        self._host_pages = None
        self._graphs.clear()
        self._forward.attention.use_pages(None)

    def _batch_shape(self, plan: StepPlan, *, share_prefixes: bool) -> BatchShape | None:
        """The smallest shape that holds the plan, of the recorded ones if any are; None for a plan without tokens.

        With `share_prefixes` that shape where prefixes are read once, if there is one.
        """
        if plan.verifications:
            return self._verify_shape(plan)
        num_slots, num_tokens = len(plan.decode_rows), sum(len(chunk.token_ids) for chunk in plan.chunks)
        if not num_slots and not num_tokens:
            return None
        shapes = self._recorded
        fitting = [
            shape
            for shape in shapes
            if shape.num_slots >= num_slots
            and shape.num_prefill_tokens >= num_tokens
            and not (shape.shares_prefixes or shape.verifies)
        ]
        if not fitting:
            raise ValueError(f"a step of {num_slots} rows and {num_tokens} prompt tokens is larger than any recorded")
        smallest = min(fitting, key=lambda shape: (shape.num_tokens, shape.num_slots))
        sharing = replace(smallest, shares_prefixes=True)
        return sharing if share_prefixes and sharing in shapes else smallest

    def _verify_shape(self, plan: StepPlan) -> BatchShape:
        """The smallest shape for a plan with drafts."""
        tokens = num_tokens(plan)
        fitting = [shape for shape in self._recorded if shape.verifies and shape.num_tokens >= tokens]
        if plan.chunks or not fitting:
            raise ValueError(f"a step of {tokens} tokens verifies drafts, beside {len(plan.chunks)} chunks of prompts")
        return min(fitting, key=lambda shape: shape.num_tokens)

    def _run(self, shape: BatchShape) -> None:
        self._apply_updates()
        self._forward.run(shape, self._input_buffers.inputs(self._device_buffer, shape), self._batch_state)

    def _copy_pages(self, plan: StepPlan) -> None:
        if isinstance(self._host_pages, CudaHostPages):
            self._host_pages.launch(plan)
        elif self._host_pages is not None:
            self._host_pages.copy(plan.copies)

    def _apply_updates(self) -> None:
        state, offsets = self._batch_state, self._input_buffers.offsets
        pointwise.apply_updates(
            self._device_buffer, state.temperatures, state.top_ps, state.seeds, state.page_tables,
            sequences_at=offsets["new_sequences"], grants_at=offsets["page_grants"],
            max_sequences=self._config.max_num_seqs, max_grants=MAX_PAGE_GRANTS, pdl=self._forward.pdl,
        )  # fmt: skip

    def _copy_inputs(self, plan: StepPlan, shape: BatchShape, groups: PrefixGroups | None = None) -> None:
        """Write the plan into the device's input buffer, through the next host buffer."""
        self._last_decode = None
        self._host_buffer_index = (self._host_buffer_index + 1) % NUM_HOST_BUFFERS
        done = self._copies_done[self._host_buffer_index]
        if done is not None:
            done.synchronize()
        host = self._input_buffers.fill(self._host_buffers[self._host_buffer_index], plan, shape, groups)
        size = self._input_buffers.size(shape)
        self._device_buffer[:size].copy_(host[:size], non_blocking=True)
        if self._gpu:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            event.record()
            self._copies_done[self._host_buffer_index] = event

    def _handle(self, plan: StepPlan) -> CudaStepHandle:
        """Start copying the sampled ids to the next host buffer."""
        rows = plan.sampled_rows
        if not rows:
            return CudaStepHandle((), self._host_ids[0], None)
        self._host_ids_index = (self._host_ids_index + 1) % NUM_HOST_BUFFERS
        host = self._host_ids[self._host_ids_index] if self._gpu else torch.empty_like(self._host_ids[0])
        host[: len(rows)].copy_(self._forward.ids[: len(rows)], non_blocking=True)
        logprobs = self._resampler.logprobs(rows)
        if not self._gpu:
            return CudaStepHandle(rows, host, None, logprobs, plan.verifications)
        logprobs = logprobs and logprobs.to_host()
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return CudaStepHandle(rows, host, event, logprobs, plan.verifications)
