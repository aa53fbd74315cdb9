"""The runner in plain torch: what a CPU runs, and on any device the oracle of the faster ones.

Row state (page tables, positions, sampling) is plain Python; the last sampled ids stay on the device, so that a step
can be launched before the ids of the one before have been read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.layers.paged_attention import PagedAttention, PagedKV, Segment
from engine.layers.sampler import greedy, sample, signed64
from engine.model.transformer import Transformer
from engine.runner.memory import allocated_bytes
from engine.scheduler.step_plan import StepPlan


@dataclass(slots=True)
class _Row:
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    num_computed_tokens: int = 0
    page_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TorchStepHandle:
    rows: tuple[int, ...]
    ids: Tensor  # on the host, once `ready` has happened
    ready: torch.cuda.Event | None


class TorchRunner:
    def __init__(self, config: EngineConfig, model: Transformer, num_kv_pages: int) -> None:
        self.num_kv_pages = num_kv_pages
        self._config, self._model, self._device = config, model, config.device
        self._rows = [_Row() for _ in range(config.max_num_seqs)]
        self._last = torch.zeros(config.max_num_seqs, dtype=torch.int64, device=config.device)
        spec = model.spec
        self._kv = PagedKV(
            spec.n_layers, num_kv_pages, config.page_size, model.kv_heads, spec.head_dim, config.dtype, config.device
        )

    @torch.inference_mode()
    def execute_async(self, plan: StepPlan) -> TorchStepHandle:
        self._update_rows(plan)
        rows = plan.sampled_rows
        tokens, positions, segments, last = self._flatten_batch(plan)
        if not segments:
            return TorchStepHandle((), torch.empty(0, dtype=torch.int64), None)
        logits = self._logits(tokens, positions, segments, last)
        if logits is None:
            return TorchStepHandle((), torch.empty(0, dtype=torch.int64), None)
        ids = tensor_parallel.broadcast(self._sample(logits, rows))
        self._last[torch.tensor(rows, device=self._device)] = ids.clamp_min(0)
        return self._handle(rows, ids)

    def wait(self, ticket: TorchStepHandle) -> dict[int, int]:
        if ticket.ready is not None:
            ticket.ready.synchronize()
        return dict(zip(ticket.rows, ticket.ids.tolist(), strict=True))

    def allocated_bytes(self) -> int:
        return allocated_bytes(self._device)

    def close(self) -> None:
        self._kv.k, self._kv.v = [], []

    def _logits(
        self, tokens: Tensor, positions: Tensor, segments: Sequence[Segment], last: Sequence[int]
    ) -> Tensor | None:
        """The step's forward; the logits of the tokens at `last`, if there are any."""
        hidden = self._model(tokens, positions, PagedAttention(self._kv, segments, self._device))
        return self._model.logits(hidden[torch.tensor(last, device=self._device)]) if last else None

    def _update_rows(self, plan: StepPlan) -> None:
        for row in plan.freed_rows:
            self._rows[row] = _Row()
        for setup in plan.new_sequences:
            self._rows[setup.row] = _Row(setup.temperature, setup.top_p, setup.seed)
        for row, index, page in plan.page_grants:
            pages = self._rows[row].page_ids
            if index != len(pages):
                raise ValueError(f"row {row} has {len(pages)} pages and is granted number {index}")
            pages.append(page)

    def _flatten_batch(self, plan: StepPlan) -> tuple[Tensor, Tensor, list[Segment], list[int]]:
        """The step's tokens in one line: chunks, then decode rows; and which of them sample."""
        tokens: list[int] = []
        positions: list[int] = []
        segments: list[Segment] = []
        last: list[int] = []
        for chunk in plan.chunks:
            row, end = self._rows[chunk.row], chunk.start + len(chunk.token_ids)
            tokens += chunk.token_ids
            positions += range(chunk.start, end)
            segments.append(Segment(row.page_ids, chunk.start, len(chunk.token_ids)))
            row.num_computed_tokens = end
            if chunk.is_last:
                last.append(len(tokens) - 1)
        for number in plan.decode_rows:
            row = self._rows[number]
            last.append(len(positions))
            positions.append(row.num_computed_tokens)
            segments.append(Segment(row.page_ids, row.num_computed_tokens, 1))
            row.num_computed_tokens += 1
        flat = torch.tensor(tokens, dtype=torch.int64, device=self._device)
        if plan.decode_rows:
            flat = torch.cat((flat, self._last[torch.tensor(plan.decode_rows, device=self._device)]))
        return flat, torch.tensor(positions, device=self._device), segments, last

    def _sample(self, logits: Tensor, numbers: tuple[int, ...]) -> Tensor:
        if self._config.rank:
            return torch.empty(len(numbers), dtype=torch.int64, device=self._device)
        rows = [self._rows[number] for number in numbers]
        if all(row.temperature <= 0 for row in rows):
            return greedy(logits)
        return sample(
            logits,
            torch.tensor([row.temperature for row in rows], device=self._device),
            torch.tensor([row.top_p for row in rows], device=self._device),
            torch.tensor([signed64(row.seed) for row in rows], device=self._device),
            torch.tensor([row.num_computed_tokens for row in rows], device=self._device),
        )

    def _handle(self, rows: tuple[int, ...], ids: Tensor) -> TorchStepHandle:
        if not ids.is_cuda:
            return TorchStepHandle(rows, ids, None)
        host = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        host.copy_(ids, non_blocking=True)
        return TorchStepHandle(rows, host, torch.cuda.current_stream(self._device).record_event())
