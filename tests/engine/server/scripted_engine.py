"""An engine that replays scripted replies, and a tokenizer whose tokens are bytes: for tests of the HTTP layer."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from engine.chat.formats import Message
from engine.core.request_stream import EngineDead, RequestOutput, RequestStream
from engine.errors import Busy
from engine.logits_params import TokenConstraint, TokenLogprobs
from engine.scheduler.request import FinishReason, SamplingParams, Usage
from engine.tokenizers.base import DecodeRules, decode_all

MAX_CONTEXT = 400
EOS = 256


class ByteTokenizer:
    """Token id = byte; 256 ends the text."""

    vocab_size = 257
    bos_id = None
    adds_bos = False
    eos_id = EOS
    stop_ids = frozenset({EOS})
    padding_ids: frozenset[int] = frozenset()
    rules = DecodeRules("sequence")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return decode_all(self, ids)

    def piece(self, token_id: int) -> bytes | str:
        return bytes([token_id]) if token_id < EOS else ""

    def control(self, name: str) -> int:
        raise KeyError(name)


class PlainFormat:
    """`role: content` lines."""

    stop_ids = frozenset({EOS})

    def encode(self, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
        text = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return list((text[:-1] if continue_last else text).encode())


def scripted_logprobs(token_id: int, count: int) -> TokenLogprobs:
    """Of a token and of the ids that follow it."""
    return TokenLogprobs(-token_id / 128, tuple((token_id + n, -(token_id + n) / 128) for n in range(count)))


@dataclass(slots=True)
class Submitted:
    """One request as the engine received it; the test plays the step loop."""

    prompt: tuple[int, ...]
    params: SamplingParams
    client: str
    tenant: str
    stream: RequestStream
    constraint: TokenConstraint | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    num_output_tokens: int = 0

    def deliver(self, ids: Sequence[int], finish_reason: FinishReason | None = None, error: str | None = None) -> None:
        """What one step brings."""
        self.num_output_tokens += len(ids)
        usage = Usage(len(self.prompt), self.num_output_tokens, 3)
        asked = self.params.num_logprobs
        logprobs = () if asked is None else tuple(scripted_logprobs(each, asked) for each in ids)
        self.stream.deliver(RequestOutput(tuple(ids), usage, finish_reason, error, logprobs))


class ScriptedEngine:
    """Each request gets the next of `replies`, complete; when none is left the test calls `Submitted.deliver`."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.submitted: list[Submitted] = []
        self.erased: list[str] = []
        self.failure: str | None = None
        self.busy = False
        self._arrived = asyncio.Event()

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        client: str,
        tenant: str,
        constraint: TokenConstraint | None = None,
    ) -> RequestStream:
        if self.failure is not None:
            raise EngineDead(self.failure)
        if self.busy:
            raise Busy(2.4)

        def cancel() -> None:
            request.cancelled.set()
            request.deliver([], "cancelled")

        loop = asyncio.get_running_loop()
        stream = RequestStream(len(prompt_ids), cancel, loop)
        request = Submitted(tuple(prompt_ids), params, client, tenant, stream, constraint)
        self.submitted.append(request)
        self._arrived.set()
        if self.replies:
            ids = list(self.replies.pop(0))
            sent = ids[: params.max_tokens]
            loop.call_soon(request.deliver, sent, "stop" if len(sent) == len(ids) else "length")
        return stream

    def erase(self, tenant: str) -> "Future[int]":
        if self.failure is not None:
            raise EngineDead(self.failure)
        done: Future[int] = Future()
        self.erased.append(tenant)
        done.set_result(7)
        return done

    async def next_request(self) -> Submitted:
        """Waits for a request that no earlier call has returned."""
        await asyncio.wait_for(self._arrived.wait(), 5)
        self._arrived.clear()
        return self.submitted[-1]

    async def wait_for_requests(self, count: int) -> None:
        """Waits until `count` requests have been submitted."""
        while len(self.submitted) < count:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 5)

    def close(self) -> None:
        self.failure = "closed"
