"""Batch generation for programs in which every rank makes the same calls: no server, no thread, no broadcast of plans.

Scheduling is deterministic, so ranks that get the same prompts plan the same steps; the sampled tokens are rank 0's on
every rank. Knows token ids, no text.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.core.worker import Worker, scheduler_from_config, start_worker
from engine.distributed.communicator import Communicator, connect
from engine.errors import EngineError
from engine.layers.paged_attention import DenseAttention
from engine.scheduler.request import Request, RequestStatus, SamplingParams

SCORE_CHUNK = 256  # positions whose logits are in memory at once


class OfflineEngine:
    """A model and its KV cache. The cache is kept between calls, so that prompts reuse the prefixes of earlier ones."""

    def __init__(self, config: EngineConfig, communicator: Communicator, worker: Worker) -> None:
        """Use `load`, which makes the arguments."""
        self._config, self._communicator = config, communicator
        self._model, self._runner = worker.model, worker.runner
        steady = replace(worker.config, burst_prefill_tokens=0)  # every step takes at most `max_prefill_tokens`
        self._scheduler = scheduler_from_config(steady, worker)
        self._next_id = 0

    @classmethod
    def load(cls, config: EngineConfig, checkpoint: Checkpoint) -> "OfflineEngine":
        """Connect the ranks and load the model. Blocks until every rank has called it; raises ConfigError."""
        config = replace(config, num_host_slots=0, kv_store=None)
        communicator = connect(config)
        return cls(config, communicator, start_worker(config, checkpoint, communicator))

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[list[int]]:
        """The generated ids of each prompt, without the stop token. Raises EngineError if a logit is not a number."""
        requests = [
            Request(self._next_id + number, list(prompt), params, seed, client="", tenant="", max_total_tokens=0)
            for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        self._next_id += len(requests)
        try:
            for request in requests:
                self._scheduler.add_request(request)
            while any(request.status is not RequestStatus.FINISHED for request in requests):
                self._step()
        finally:
            for request in requests:
                self._scheduler.cancel_request(request)
        if any(request.finish_reason == "error" for request in requests):
            raise EngineError("the model computed something that is not a number")
        return [request.output_token_ids for request in requests]

    @torch.inference_mode()
    def score(self, ids: Sequence[int]) -> list[float]:
        """The log-probability of each token given those before it; 0 for the first."""
        token_ids = torch.tensor(ids, device=self._config.device)
        positions = torch.arange(len(ids), device=self._config.device)
        hidden: Tensor = self._model(token_ids, positions, DenseAttention(len(ids), self._config.device))
        scores = [0.0]
        for start in range(0, len(ids) - 1, SCORE_CHUNK):
            end = min(start + SCORE_CHUNK, len(ids) - 1)
            logits = self._model.logits(hidden[start:end])
            chosen = logits.gather(1, token_ids[start + 1 : end + 1].unsqueeze(1)).squeeze(1)
            scores += (chosen - logits.logsumexp(dim=-1)).tolist()
        return scores

    def close(self) -> None:
        """Free the memory and leave the process group."""
        self._scheduler.drafter.close()
        self._runner.close()
        self._communicator.close()

    def _step(self) -> None:
        step = self._scheduler.schedule()
        if step is None:
            raise RuntimeError("unfinished requests, but nothing to schedule")
        handle = self._runner.execute_async(step.plan)
        ids = self._runner.wait(handle)
        self._scheduler.update_from_output(step, ids, verified=self._runner.verified(handle))
