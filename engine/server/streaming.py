"""One response on its way to a client: token ids become text, stop strings are cut off, the end gets its reason.

Lives on the event loop. Wraps a `RequestStream`, which is where results cross threads: the step loop's thread hands
each step's token ids to the event loop (`call_soon_threadsafe`), whose thread appends them to the `RequestStream`.
Turns them into text with an `IncrementalDetokenizer`. Knows nothing of HTTP.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from engine.core.request_stream import RequestOutput, RequestStream
from engine.errors import EngineError
from engine.server.detokenizer import IncrementalDetokenizer
from engine.server.generation.repetition import RepetitionGuard
from engine.server.generation.token_logprobs import LogprobsQueue
from engine.server.protocol.errors import engine_unavailable
from engine.server.protocol.logprobs import TokenLogprob
from engine.server.protocol.responses import REPETITION, ChoiceEnd, FinishReason, Usage
from engine.server.reply_parts import ReplyParts

_LOGPROBS_AT_ONCE = 64  # tokens

Outcome = str  # "stop", "length", "repetition", "cancelled", "error"


class ResponseObserver(Protocol):
    """Counts responses: each method is called at most once per response."""

    def first_token(self, seconds: float) -> None:
        """`seconds`: since the request was submitted."""

    def response_ended(self, outcome: Outcome, usage: Usage, seconds: float) -> None:
        """`seconds`: since the request was submitted."""


class ResponseStream:
    """`async for text in stream` yields text; before the end an empty one if only `take_fields` may have something.

    At its end `end` and `usage` are final. `end` None at the end means that the client disconnected. A response
    that the engine cannot finish raises RequestError (503) after the text that was generated.
    """

    def __init__(
        self,
        tokens: RequestStream,
        detokenizer: IncrementalDetokenizer,
        observer: ResponseObserver,
        on_end: Callable[["ResponseStream"], None],
        *,
        logprobs: LogprobsQueue | None = None,
        guard: RepetitionGuard | None = None,
        parts: ReplyParts | None = None,
    ) -> None:
        """`on_end` is called once, whatever the outcome; `logprobs`: of a client that asks for them.

        `parts`: the decoder, if the reply may have reasoning or tool calls.
        """
        self.tokens = self._tokens = tokens
        self._detokenizer = detokenizer
        self._observer = observer
        self._on_end = on_end
        self._submitted_at = time.monotonic()
        self._has_tokens = False
        self._ended = False
        self._logprobs, self._guard, self._parts = logprobs, guard, parts
        self._waiting: list[int] = []  # ids that have come and are not decoded yet
        self._length = 0  # characters of the text that has been returned
        self.end: ChoiceEnd | None = None
        self.outcome: Outcome | None = None
        """How it ended, once it has."""

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        usage = self._tokens.usage
        completion_tokens = usage.completion_tokens
        if self._detokenizer.stopped:  # the engine may have generated more before it saw the cancel
            completion_tokens = self._detokenizer.num_tokens
        reasoning_tokens = None if self._parts is None else self._parts.reasoning_tokens
        return Usage(usage.prompt_tokens, completion_tokens, usage.cached_tokens, reasoning_tokens)

    def take_fields(self) -> dict[str, object]:
        """Reasoning and tool calls since the last call, as fields of a delta."""
        return {} if self._parts is None else self._parts.take_fields()

    def cancel(self) -> None:
        """The client has disconnected. No effect after the end."""
        if not self._ended:
            self._tokens.cancel()
            self._end("cancelled")

    def abort(self, message: str) -> None:
        """The server is shutting down: end the response with `message` as an error. No effect after the end."""
        if not self._ended:
            self._tokens.cancel()
            # The step loop may be stuck and never confirm the cancel.
            self._tokens.deliver(RequestOutput((), self._tokens.usage, "error", message))

    async def wait_for_more(self, seconds: float) -> None:
        """Let tokens gather for `seconds`, or until the response has ended."""
        await self._tokens.wait_for_more(seconds)

    def __aiter__(self) -> "ResponseStream":
        return self

    async def __anext__(self) -> str:
        while not self._ended:
            try:
                ids = self._take_waiting() or await anext(self._tokens)
            except StopAsyncIteration:
                rest = self._detokenizer.finish()
                self._length += len(rest)
                self._finish()
                if rest:
                    return rest
                break
            except EngineError as error:
                self._end("error")
                raise engine_unavailable(str(error)) from error
            if not self._has_tokens:
                self._has_tokens = True
                self._observer.first_token(time.monotonic() - self._submitted_at)
            text = self._detokenizer.push(ids) if self._logprobs is None else self._push_with_logprobs(ids)
            if self._detokenizer.stopped:
                self._tokens.cancel()
                self._end_with("stop", self._detokenizer.stopped_by)
            elif self._guard is not None and self._guard.push(text, self._tokens.token_ids):
                self._tokens.cancel()
                text += self._detokenizer.finish()
                self._end_with("stop", REPETITION)
            elif self._parts is not None and self._parts.is_full:
                self._tokens.cancel()
                text += self._detokenizer.finish()
                self._end_with("stop", None)
            if text or (self._parts is not None and not self._ended):  # an end is told once, by StopAsyncIteration
                return text
        raise StopAsyncIteration

    def take_logprobs(self) -> list[TokenLogprob] | None:
        """The entries that belong to the text since the last call; None if the client asks for none."""
        if self._logprobs is None:
            return None
        if self.end is not None and not self._detokenizer.stopped:
            return self._logprobs.take_all()
        return self._logprobs.take(self._length)

    def _take_waiting(self) -> list[int]:
        ids, self._waiting = self._waiting, []
        return ids

    def _push_with_logprobs(self, ids: Sequence[int]) -> str:
        """The text of some of the ids; the others wait, so that no event becomes so large that other streams wait."""
        text, self._waiting = "", list(ids[_LOGPROBS_AT_ONCE:])
        for token_id in ids[:_LOGPROBS_AT_ONCE]:
            if self._logprobs is not None and not self._detokenizer.stopped:
                offset = self._length + len(text) + self._detokenizer.num_held_back
                self._logprobs.push(token_id, self._tokens.logprobs[self._detokenizer.num_tokens], offset)
            text += self._detokenizer.push((token_id,))
        self._length += len(text)
        return text

    def _finish(self) -> None:
        """The engine will generate no more tokens: set the finish reason, or raise RequestError."""
        if self._ended:  # the client has disconnected
            return
        reason = self._tokens.finish_reason
        if self._detokenizer.stopped:
            return self._end_with("stop", self._detokenizer.stopped_by)
        if reason == "stop" or reason == "length":
            return self._end_with(reason, None)
        self._end("cancelled")
        raise engine_unavailable("The engine is shutting down.")

    def _end_with(self, reason: FinishReason, stop_reason: str | None) -> None:
        called = reason == "stop" and stop_reason is None and self._parts is not None and self._parts.ends_for_calls
        self.end = ChoiceEnd("tool_calls" if called else reason, stop_reason)
        self._end(REPETITION if stop_reason == REPETITION and not self._detokenizer.stopped else reason)

    def _end(self, outcome: Outcome) -> None:
        if not self._ended:
            self._ended, self.outcome = True, outcome
            self._on_end(self)
            self._observer.response_ended(outcome, self.usage, time.monotonic() - self._submitted_at)
