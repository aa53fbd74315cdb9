"""One response on its way to a client: token ids become text, stop strings are cut off, the end gets its reason.

Lives on the event loop. Wraps a `RequestStream`, which is where results cross threads: the step loop's thread hands
each step's token ids to the event loop (`call_soon_threadsafe`), whose thread appends them to the `RequestStream`.
Turns them into text with an `IncrementalDetokenizer`. Knows nothing of HTTP.
"""

import time
from collections.abc import Callable
from typing import Protocol

from engine.core.request_stream import RequestOutput, RequestStream
from engine.errors import EngineError
from engine.server.detokenizer import IncrementalDetokenizer
from engine.server.protocol.errors import engine_unavailable
from engine.server.protocol.responses import FinishReason, Usage
from engine.server.reply_parts import ReplyParts

Outcome = str  # "stop", "length", "cancelled", "error"


class ResponseObserver(Protocol):
    """Counts responses: each method is called at most once per response."""

    def first_token(self, seconds: float) -> None:
        """`seconds`: since the request was submitted."""

    def response_ended(self, outcome: Outcome, usage: Usage, seconds: float) -> None:
        """`seconds`: since the request was submitted."""


class ResponseStream:
    """`async for text in stream` yields text, empty while there is only what `take_fields` returns.

    At its end `finish_reason` and `usage` are final. `finish_reason` None at the end means that the client
    disconnected. A response that the engine cannot finish raises RequestError (503) after the text that was generated.
    """

    def __init__(
        self,
        tokens: RequestStream,
        detokenizer: IncrementalDetokenizer,
        observer: ResponseObserver,
        on_end: Callable[["ResponseStream"], None],
        *,
        parts: ReplyParts | None = None,
    ) -> None:
        """`on_end` is called once, whatever the outcome; `parts`: the decoder, if there may be more than an answer."""
        self._tokens = tokens
        self._detokenizer = detokenizer
        self._observer = observer
        self._on_end = on_end
        self._parts = parts
        self._submitted_at = time.monotonic()
        self._has_tokens = False
        self._ended = False
        self.finish_reason: FinishReason | None = None

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
        """What has come beside the text since the last call: what the model thought, and calls of tools."""
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
                ids = await anext(self._tokens)
            except StopAsyncIteration:
                rest = self._detokenizer.finish()
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
            text = self._detokenizer.push(ids)
            if self._detokenizer.stopped:
                self._tokens.cancel()
                self.finish_reason = "stop"
                self._end("stop")
            if text or self._parts is not None:
                return text
        raise StopAsyncIteration

    def _finish(self) -> None:
        """The engine will generate no more tokens: set the finish reason, or raise RequestError."""
        if self._ended:  # the client has disconnected
            return
        reason = self._tokens.finish_reason
        if self._detokenizer.stopped:
            reason = "stop"
        if reason == "stop" or reason == "length":
            calls = reason == "stop" and self._parts is not None and self._parts.has_calls
            self.finish_reason = "tool_calls" if calls else reason
            self._end(reason)
            return
        self._end("cancelled")
        raise engine_unavailable("The engine is shutting down.")

    def _end(self, outcome: Outcome) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(self)
            self._observer.response_ended(outcome, self.usage, time.monotonic() - self._submitted_at)
