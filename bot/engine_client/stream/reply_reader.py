"""Turns the events of one streamed reply into its pieces, without what the model thinks.

Knows what a chunk says (`chunks`) and what of it is thought (`reasoning`); knows no connection and no server.
"""

from __future__ import annotations

from collections.abc import Iterator

from bot.engine_client.messages import Delta, Finished, Thinking
from bot.engine_client.stream.chunks import ChunkReader
from bot.engine_client.stream.event_payload import Event
from bot.engine_client.stream.reasoning import ReasoningSplitter, Split


class ReplyReader:
    """Reads the events of one reply in order."""

    def __init__(self, splitter: ReasoningSplitter) -> None:
        self._splitter = splitter
        self._chunks = ChunkReader()

    @property
    def finish_reason(self) -> str | None:
        """One of the few that the bot knows, or None until the server names one."""
        return self._chunks.finish_reason

    def read(self, event: Event) -> Iterator[Delta | Thinking]:
        """What one event of the stream says. Raises EngineUnreadable."""
        if event is None:
            return
        before = self._chunks.thought
        text = self._chunks.read(event)
        if self._chunks.thought > before:
            yield Thinking(self._chunks.thought - before)
        if text:
            yield from _pieces(self._splitter.push(text))

    def end(self, finish_reason: str) -> Iterator[Delta | Thinking]:
        """What was held back, now that the reply has ended in this way."""
        yield from _pieces(self._splitter.end(finish_reason))

    def finished(self, finish_reason: str) -> Finished:
        """The last piece, with what the reply took."""
        return Finished(finish_reason, self._chunks.prompt_tokens, self._chunks.completion_tokens)


def _pieces(split: Split) -> Iterator[Delta | Thinking]:
    if split.thought or split.retracts:
        yield Thinking(split.thought, split.retracts)
    if split.answer:
        yield Delta(split.answer)
