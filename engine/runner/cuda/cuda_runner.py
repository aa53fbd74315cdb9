"""The runner for a GPU: plans become a few integers in a control block and the replay of a recorded step.

Rows live on the device and move on inside the graph, so a step that only decodes needs nothing from the host but its
slots, and those only when they change. The host runs one step ahead and never waits for the device in `launch`.

It knows plans, graphs and copies; what a step computes is `cuda_step`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.distributed import symmetric_memory
from engine.kernels import pointwise
from engine.model.transformer import Transformer
from engine.runner.cuda.collectives import ArenaFactory
from engine.runner.cuda.forward import CudaForward
from engine.runner.cuda.input_batch import BatchShape, BatchState
from engine.runner.cuda.input_buffers import MAX_PAGE_GRANTS, InputBuffers, batch_shapes
from engine.runner.memory import allocated_bytes, kv_storage
from engine.scheduler.step_plan import StepPlan

NUM_HOST_BUFFERS = 4  # host buffers in use at once: more than steps in flight


@dataclass(frozen=True, slots=True)
class CudaStepHandle:
    rows: tuple[int, ...]
    ids: Tensor
    ready: torch.cuda.Event | None


class CudaRunner:
    def __init__(self, config: EngineConfig, model: Transformer, create_arena: ArenaFactory | None = None) -> None:
        """Allocates all but the KV pages; call `start` with their number before anything else.

        `meet`: how ranks come by memory that they share, if not as GPUs do.
        """
        self.num_kv_pages = 0
        self._config, self._model, self._device = config, model, config.device
        self._gpu = config.device.type == "cuda"
        self._shapes = batch_shapes(config)
        create_arena = create_arena or partial(symmetric_memory.create_arena, device=config.device, rank=config.rank)
        self._input_buffers = InputBuffers(config.max_num_seqs, self._shapes, gpu=self._gpu)
        self._forward = CudaForward(
            config, model, max(size.num_tokens for size in self._shapes), config.max_num_seqs, create_arena
        )
        self._batch_state = BatchState.allocate(config.max_num_seqs + 1, config.max_pages_per_seq, config.device)
        self._device_buffer = torch.zeros(self._input_buffers.size, dtype=torch.int32, device=config.device)
        self._host_buffers = [
            torch.zeros(self._input_buffers.size, dtype=torch.int32, pin_memory=self._gpu)
            for _ in range(NUM_HOST_BUFFERS)
        ]
        self._host_ids = [
            torch.zeros(config.max_num_seqs, dtype=torch.int32, pin_memory=self._gpu) for _ in range(NUM_HOST_BUFFERS)
        ]
        self._copies_done: list[torch.cuda.Event | None] = [None] * NUM_HOST_BUFFERS
        self._graphs: dict[BatchShape, torch.cuda.CUDAGraph] = {}
        self._stream = torch.cuda.Stream(config.device) if self._gpu else None  # type: ignore[no-untyped-call]  # torch's
        self._ring_index = self._ids_ring_index = 0
        self._last_inputs: tuple[BatchShape, tuple[int, ...]] | None = (
            None  # what the device's control block holds, if that is all
        )

    def start(self, num_kv_pages: int) -> None:
        """Take the KV pages, run and record every size of step."""
        self.num_kv_pages = num_kv_pages
        config, spec = self._config, self._model.spec
        shape = (num_kv_pages, config.page_size, self._model.kv_heads, spec.head_dim)
        self._forward.attention.allocate_pages(shape, kv_storage(config))
        if not self._gpu or self._stream is None:
            return
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            pool = None
            for size in sorted(self._shapes, key=lambda size: -size.num_tokens):
                self._device_buffer.copy_(
                    self._input_buffers.fill(torch.zeros_like(self._host_buffers[0]), StepPlan(0), size)
                )
                self._run(size)
                if not config.cuda_graphs or config.share_gpu:
                    continue
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                    self._run(size)
                pool = pool or graph.pool()
                self._graphs[size] = graph
            self._stream.synchronize()

    @torch.inference_mode()
    def execute_async(self, plan: StepPlan) -> CudaStepHandle:
        if self._stream is None:
            return self._execute(plan)
        with torch.cuda.stream(self._stream):
            return self._execute(plan)

    def _execute(self, plan: StepPlan) -> CudaStepHandle:
        grants = plan.page_grants
        while len(grants) > MAX_PAGE_GRANTS:
            self._copy_inputs(StepPlan(plan.step, page_grants=grants[:MAX_PAGE_GRANTS]), self._shapes[0])
            self._apply_updates()
            grants = grants[MAX_PAGE_GRANTS:]
        plan = replace(plan, page_grants=grants)
        size = self._batch_shape(plan)
        steady = not (plan.new_sequences or plan.page_grants or plan.chunks)
        if size is None:
            if not steady:
                self._copy_inputs(plan, self._shapes[0])
                self._apply_updates()
            return CudaStepHandle((), self._host_ids[0], None)
        if not steady or self._last_inputs != (size, plan.decode_rows):
            self._copy_inputs(plan, size)
            self._last_inputs = (size, plan.decode_rows) if not plan.chunks else None
        if size in self._graphs:
            self._graphs[size].replay()
        else:
            self._run(size)
        return self._handle(plan.sampled_rows)

    def wait(self, ticket: CudaStepHandle) -> dict[int, int]:
        if ticket.ready is not None:
            ticket.ready.synchronize()
        return dict(zip(ticket.rows, ticket.ids[: len(ticket.rows)].tolist(), strict=True))

    def allocated_bytes(self) -> int:
        return allocated_bytes(self._device)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
        self._graphs.clear()
        self._forward.attention.free_pages()

    def _batch_shape(self, plan: StepPlan) -> BatchShape | None:
        """The smallest recorded step that holds the plan."""
        slots, tokens = len(plan.decode_rows), sum(len(chunk.token_ids) for chunk in plan.chunks)
        if not slots and not tokens:
            return None
        fitting = [size for size in self._shapes if size.num_slots >= slots and size.num_prefill_tokens >= tokens]
        if not fitting:
            raise ValueError(f"a step of {slots} rows and {tokens} prompt tokens is larger than any recorded")
        return min(fitting, key=lambda size: (size.num_tokens, size.num_slots))

    def _run(self, size: BatchShape) -> None:
        self._apply_updates()
        self._forward.run(size, self._input_buffers.inputs(self._device_buffer, size), self._batch_state)

    def _apply_updates(self) -> None:
        rows, at = self._batch_state, self._input_buffers.offsets
        pointwise.apply(
            self._device_buffer, rows.temperatures, rows.top_ps, rows.seeds, rows.page_tables, setups_at=at["setups"],
            grants_at=at["grants"], setups=self._config.max_num_seqs, grants=MAX_PAGE_GRANTS, pdl=self._forward.pdl,
        )  # fmt: skip

    def _copy_inputs(self, plan: StepPlan, size: BatchShape) -> None:
        """The plan into the device's control block, through the next host buffer of the ring."""
        self._last_inputs = None
        self._ring_index = (self._ring_index + 1) % NUM_HOST_BUFFERS
        done = self._copies_done[self._ring_index]
        if done is not None:
            done.synchronize()
        host = self._input_buffers.fill(self._host_buffers[self._ring_index], plan, size)
        used = self._input_buffers.size if size.num_prefill_tokens else self._input_buffers.steady
        self._device_buffer[:used].copy_(host[:used], non_blocking=True)
        if self._gpu:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            event.record()
            self._copies_done[self._ring_index] = event

    def _handle(self, rows: tuple[int, ...]) -> CudaStepHandle:
        if not rows:
            return CudaStepHandle((), self._host_ids[0], None)
        self._ids_ring_index = (self._ids_ring_index + 1) % NUM_HOST_BUFFERS
        host = self._host_ids[self._ids_ring_index] if self._gpu else torch.empty_like(self._host_ids[0])
        host[: len(rows)].copy_(self._forward.ids[: len(rows)], non_blocking=True)
        if not self._gpu:
            return CudaStepHandle(rows, host, None)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return CudaStepHandle(rows, host, event)
