"""An engine with a script instead of a model, and a tokenizer whose tokens are bytes: for tests of the HTTP layer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.chat_format import Message
from engine.core.request_stream import EngineDead, RequestOutput, RequestStream
from engine.errors import Busy
from engine.scheduler.request import FinishReason, SamplingParams, Usage
from engine.tokenizers.base import DecodeRules, decode_all

CONTEXT = 400
STOP = 256


class ByteTokenizer:
    vocab_size = 257
    bos_id = None
    eos_id = STOP
    stop_ids = frozenset({STOP})
    rules = DecodeRules("sequence")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return decode_all(self, ids)

    def piece(self, token_id: int) -> bytes | str:
        return bytes([token_id]) if token_id < STOP else ""

    def control(self, name: str) -> int:
        raise KeyError(name)


class PlainFormat:
    stop_ids = frozenset({STOP})

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return list("".join(f"{message['role']}: {message['content']}\n" for message in messages).encode())


@dataclass(slots=True)
class Submitted:
    """One request as the engine saw it; the test plays the torch thread."""

    prompt: tuple[int, ...]
    params: SamplingParams
    client: str
    tenant: str
    generation: RequestStream
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    made: int = 0

    def make(self, ids: Sequence[int], finish_reason: FinishReason | None = None, error: str | None = None) -> None:
        self.made += len(ids)
        self.generation.deliver(RequestOutput(tuple(ids), Usage(len(self.prompt), self.made, 3), finish_reason, error))


class ScriptedEngine:
    """`replies` are played to the end at once, in order; without one the test drives the request by hand."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.submitted: list[Submitted] = []
        self.failure: str | None = None
        self.full = False
        self._arrived = asyncio.Event()

    def submit(self, prompt_ids: Sequence[int], params: SamplingParams, *, client: str, tenant: str) -> RequestStream:
        if self.failure is not None:
            raise EngineDead(self.failure)
        if self.full:
            raise Busy(2.4)

        def cancel() -> None:
            request.cancelled.set()
            request.make([], "cancelled")

        loop = asyncio.get_running_loop()
        generation = RequestStream(len(prompt_ids), cancel, loop)
        request = Submitted(tuple(prompt_ids), params, client, tenant, generation)
        self.submitted.append(request)
        self._arrived.set()
        if self.replies:
            ids = list(self.replies.pop(0))
            cut = ids[: params.max_tokens]
            loop.call_soon(request.make, cut, "stop" if len(cut) == len(ids) else "length")
        return generation

    async def next(self) -> Submitted:
        """The latest request, once there is one that no earlier call has returned."""
        await asyncio.wait_for(self._arrived.wait(), 5)
        self._arrived.clear()
        return self.submitted[-1]

    async def count(self, wanted: int) -> None:
        """Waits until that many requests have come."""
        while len(self.submitted) < wanted:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 5)

    def close(self) -> None:
        self.failure = "closed"
