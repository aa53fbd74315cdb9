"""Turns the events of one streamed reply into its pieces, without what the model thinks.

Knows what a chunk says (`chunks`) and what of it is thought (`reasoning`); knows no connection and no server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bot.engine_client.messages import Delta, Finished, Thinking
from bot.engine_client.stream.chunks import ChunkReader
from bot.engine_client.stream.event_payload import Event
from bot.engine_client.stream.reasoning import ReasoningSplitter, Split
from bot.errors import EngineUnreadable


class ReplyReader:
    """Reads the events of one reply in order."""

    def __init__(self, splitter: ReasoningSplitter) -> None:
        self._splitter = splitter
        self._chunks = ChunkReader()

    @property
    def finish_reason(self) -> str | None:
        """One of the few that the bot knows, or None until the server names one."""
        return self._chunks.finish_reason

    def read(self, events: Iterable[Event]) -> Iterator[Delta | Thinking]:
        """What events of the stream say that came together. Raises EngineUnreadable, after what could be read."""
        texts: list[str] = []
        try:
            for event in events:
                if event is None:
                    continue
                before = self._chunks.thought
                text = self._chunks.read(event)
                if self._chunks.thought > before:
                    yield from self._split(texts)
                    texts.clear()
                    yield Thinking(self._chunks.thought - before)
                if text:
                    texts.append(text)
        except EngineUnreadable:
            yield from self._split(texts)
            raise
        yield from self._split(texts)

    def _split(self, texts: list[str]) -> Iterator[Delta | Thinking]:
        if texts:
            yield from _pieces(self._splitter.push("".join(texts)), len(texts))

    def end(self, finish_reason: str) -> Iterator[Delta | Thinking]:
        """What was held back, now that the reply has ended in this way."""
        yield from _pieces(self._splitter.end(finish_reason))

    def finished(self, finish_reason: str) -> Finished:
        """The last piece, with what the reply took."""
        return Finished(finish_reason, self._chunks.prompt_tokens, self._chunks.completion_tokens)


def _pieces(split: Split, count: int = 1) -> Iterator[Delta | Thinking]:
    if split.thought or split.retracts:
        yield Thinking(split.thought, split.retracts, max(1, count - 1) if split.answer else count)
        count = 1
    if split.answer:
        yield Delta(split.answer, count)
