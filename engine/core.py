"""Rank 0's engine: requests in, token ids out. One thread owns torch; any thread may submit.

(The interface; its inside is being written.)
"""

from collections.abc import Sequence

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.generation import EngineDead, Generation, GenerationFailed, Update
from engine.request import SamplingParams, Usage

__all__ = ["Engine", "EngineDead", "Generation", "GenerationFailed", "SamplingParams", "Update", "Usage", "follow"]


class Engine:
    @classmethod
    def start(cls, config: EngineConfig, checkpoint: Checkpoint) -> "Engine":
        """Rank 0: join the other ranks, load, warm up, start the thread. Blocks; raises ConfigError."""
        raise NotImplementedError

    def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, client: str = "", tenant: str = ""
    ) -> Generation:
        """Queue a request. Raises PromptTooLong, Busy, EngineDead. Called on an event loop's thread, the ids arrive
        there; called elsewhere, use `Generation.result`."""
        raise NotImplementedError

    @property
    def failure(self) -> str | None:
        """Why the engine no longer works, or None."""
        raise NotImplementedError

    def close(self) -> None:
        """End what runs as cancelled, tell the other ranks to leave, join the thread. Blocks for at most a step."""
        raise NotImplementedError


def follow(config: EngineConfig, checkpoint: Checkpoint) -> None:
    """Every other rank: load, then obey rank 0 until it says STOP. Ignores SIGTERM and SIGINT meanwhile."""
    raise NotImplementedError
