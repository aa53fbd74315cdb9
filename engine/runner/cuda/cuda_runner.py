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
from engine.runner.cuda.collectives import Meet
from engine.runner.cuda.forward import Step
from engine.runner.cuda.input_batch import Rows, Size
from engine.runner.cuda.input_buffers import GRANTS, Control, sizes
from engine.runner.memory import held_bytes, kv_storage
from engine.scheduler.step_plan import Plan

RING = 4  # host buffers in use at once: more than steps in flight


@dataclass(frozen=True, slots=True)
class CudaTicket:
    rows: tuple[int, ...]
    ids: Tensor
    ready: torch.cuda.Event | None


class CudaRunner:
    def __init__(self, config: EngineConfig, model: Transformer, meet: Meet | None = None) -> None:
        """Allocates all but the KV pages; call `start` with their number before anything else.

        `meet`: how ranks come by memory that they share, if not as GPUs do.
        """
        self.kv_pages = 0
        self._config, self._model, self._device = config, model, config.device
        self._gpu = config.device.type == "cuda"
        self._sizes = sizes(config)
        meet = meet or partial(symmetric_memory.meet, device=config.device, rank=config.rank)
        self._control = Control(config.max_batch, self._sizes, gpu=self._gpu)
        self._step = Step(config, model, max(size.total for size in self._sizes), config.max_batch, meet)
        self._rows = Rows.allocate(config.max_batch + 1, config.pages_per_row, config.device)
        self._block = torch.zeros(self._control.size, dtype=torch.int32, device=config.device)
        self._host = [torch.zeros(self._control.size, dtype=torch.int32, pin_memory=self._gpu) for _ in range(RING)]
        self._ids = [torch.zeros(config.max_batch, dtype=torch.int32, pin_memory=self._gpu) for _ in range(RING)]
        self._done: list[torch.cuda.Event | None] = [None] * RING
        self._graphs: dict[Size, torch.cuda.CUDAGraph] = {}
        self._stream = torch.cuda.Stream(config.device) if self._gpu else None  # type: ignore[no-untyped-call]  # torch's
        self._turn = self._ids_turn = 0
        self._sent: tuple[Size, tuple[int, ...]] | None = None  # what the device's control block holds, if that is all

    def start(self, pages: int) -> None:
        """Take the KV pages, run and record every size of step."""
        self.kv_pages = pages
        config, spec = self._config, self._model.spec
        shape = (pages, config.page, self._model.kv_heads, spec.head_dim)
        self._step.attention.take_pages(shape, kv_storage(config))
        if not self._gpu or self._stream is None:
            return
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            pool = None
            for size in sorted(self._sizes, key=lambda size: -size.total):
                self._block.copy_(self._control.fill(torch.zeros_like(self._host[0]), Plan(0), size))
                self._run(size)
                if not config.graphs or config.share_gpu:
                    continue
                self._stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                    self._run(size)
                pool = pool or graph.pool()
                self._graphs[size] = graph
            self._stream.synchronize()

    @torch.inference_mode()
    def launch(self, plan: Plan) -> CudaTicket:
        if self._stream is None:
            return self._launch(plan)
        with torch.cuda.stream(self._stream):
            return self._launch(plan)

    def _launch(self, plan: Plan) -> CudaTicket:
        grants = plan.grants
        while len(grants) > GRANTS:
            self._send(Plan(plan.step, grants=grants[:GRANTS]), self._sizes[0])
            self._apply()
            grants = grants[GRANTS:]
        plan = replace(plan, grants=grants)
        size = self._size(plan)
        steady = not (plan.setups or plan.grants or plan.chunks)
        if size is None:
            if not steady:
                self._send(plan, self._sizes[0])
                self._apply()
            return CudaTicket((), self._ids[0], None)
        if not steady or self._sent != (size, plan.decode):
            self._send(plan, size)
            self._sent = (size, plan.decode) if not plan.chunks else None
        if size in self._graphs:
            self._graphs[size].replay()
        else:
            self._run(size)
        return self._ticket(plan.sampled)

    def collect(self, ticket: CudaTicket) -> dict[int, int]:
        if ticket.ready is not None:
            ticket.ready.synchronize()
        return dict(zip(ticket.rows, ticket.ids[: len(ticket.rows)].tolist(), strict=True))

    def memory(self) -> int:
        return held_bytes(self._device)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()
        self._graphs.clear()
        self._step.attention.drop_pages()

    def _size(self, plan: Plan) -> Size | None:
        """The smallest recorded step that holds the plan."""
        slots, tokens = len(plan.decode), sum(len(chunk.tokens) for chunk in plan.chunks)
        if not slots and not tokens:
            return None
        fitting = [size for size in self._sizes if size.slots >= slots and size.tokens >= tokens]
        if not fitting:
            raise ValueError(f"a step of {slots} rows and {tokens} prompt tokens is larger than any recorded")
        return min(fitting, key=lambda size: (size.total, size.slots))

    def _run(self, size: Size) -> None:
        self._apply()
        self._step.run(size, self._control.inputs(self._block, size), self._rows)

    def _apply(self) -> None:
        rows, at = self._rows, self._control.at
        pointwise.apply(
            self._block, rows.temperatures, rows.top_ps, rows.seeds, rows.tables, setups_at=at["setups"],
            grants_at=at["grants"], setups=self._config.max_batch, grants=GRANTS, pdl=self._step.pdl,
        )  # fmt: skip

    def _send(self, plan: Plan, size: Size) -> None:
        """The plan into the device's control block, through the next host buffer of the ring."""
        self._sent = None
        self._turn = (self._turn + 1) % RING
        done = self._done[self._turn]
        if done is not None:
            done.synchronize()
        host = self._control.fill(self._host[self._turn], plan, size)
        used = self._control.size if size.tokens else self._control.steady
        self._block[:used].copy_(host[:used], non_blocking=True)
        if self._gpu:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            event.record()
            self._done[self._turn] = event

    def _ticket(self, rows: tuple[int, ...]) -> CudaTicket:
        if not rows:
            return CudaTicket((), self._ids[0], None)
        self._ids_turn = (self._ids_turn + 1) % RING
        host = self._ids[self._ids_turn] if self._gpu else torch.empty_like(self._ids[0])
        host[: len(rows)].copy_(self._step.ids[: len(rows)], non_blocking=True)
        if not self._gpu:
            return CudaTicket(rows, host, None)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return CudaTicket(rows, host, event)
