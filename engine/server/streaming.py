"""One reply on its way to a client: token ids become text, stop strings are cut, the end gets its name and its usage.

Joins a `Generation` (ids, from the torch thread) with a `ReplyText` (characters). Lives on the event loop.
"""

import time
from collections.abc import Callable
from typing import Protocol

from engine.core.request_stream import RequestOutput, RequestStream
from engine.errors import EngineError
from engine.server.detokenizer import IncrementalDetokenizer
from engine.server.fields import RequestError
from engine.server.responses import FinishReason, Usage

Outcome = str  # "stop", "length", "cancelled", "error"


class Observer(Protocol):
    """Who counts: told of the first token and of the end, once each."""

    def first_token(self, seconds: float) -> None: ...

    def ended(self, outcome: Outcome, usage: Usage, seconds: float) -> None: ...


class ResponseStream:
    """`async for piece in reply` yields text; then `finish_reason` and `usage` are final.

    `finish_reason` None at the end means that the client went away. A reply that the engine cannot finish raises
    RequestError (a 503) after the text that it did make.
    """

    def __init__(
        self,
        generation: RequestStream,
        text: IncrementalDetokenizer,
        observer: Observer,
        forget: Callable[["ResponseStream"], None],
    ) -> None:
        self._generation = generation
        self._text = text
        self._observer = observer
        self._forget = forget
        self._started = time.monotonic()
        self._any = False
        self._ended = False
        self.finish_reason: FinishReason | None = None

    @property
    def usage(self) -> Usage:
        told = self._generation.usage
        # After a stop string the engine may have been a token or two ahead: those were never part of the reply.
        made = self._text.tokens if self._text.stopped else told.completion_tokens
        return Usage(told.prompt_tokens, made, told.cached_tokens)

    def cancel(self) -> None:
        """The client has gone. Harmless after the end."""
        if not self._ended:
            self._generation.cancel()
            self._end("cancelled")

    def abort(self, message: str) -> None:
        """The engine has to leave: the client is told so, as an error."""
        if not self._ended:
            self._generation.cancel()
            # The engine may be past answering: the end is ours to tell.
            self._generation.deliver(RequestOutput((), self._generation.usage, "error", message))

    async def gather(self, seconds: float) -> None:
        """Lets text gather for so long, or until there is no more to come."""
        await self._generation.wait_for_more(seconds)

    def __aiter__(self) -> "ResponseStream":
        return self

    async def __anext__(self) -> str:
        while not self._ended:
            try:
                ids = await anext(self._generation)
            except StopAsyncIteration:
                rest = self._text.finish()
                self._close()
                if rest:
                    return rest
                break
            except EngineError as error:
                self._end("error")
                raise _unavailable(str(error)) from error
            if not self._any:
                self._any = True
                self._observer.first_token(time.monotonic() - self._started)
            piece = self._text.push(ids)
            if self._text.stopped:
                self._generation.cancel()
                self.finish_reason = "stop"
                self._end("stop")
            if piece:
                return piece
        raise StopAsyncIteration

    def _close(self) -> None:
        """The engine makes no more tokens: why?"""
        if self._ended:  # the client had gone
            return
        reason = self._generation.finish_reason
        if self._text.stopped:
            reason = "stop"
        if reason == "stop" or reason == "length":
            self.finish_reason = reason
            self._end(reason)
            return
        self._end("cancelled")
        raise _unavailable("The engine is shutting down.")

    def _end(self, outcome: Outcome) -> None:
        if not self._ended:
            self._ended = True
            self._forget(self)
            self._observer.ended(outcome, self.usage, time.monotonic() - self._started)


def _unavailable(message: str) -> RequestError:
    return RequestError(message, status=503, kind="server_error", code="engine_unavailable")
