"""The choices of one response, generated side by side; each text goes to the client as soon as it is there.

Knows response streams; knows neither HTTP nor the shape of a body.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from engine.server.protocol.responses import ChoiceEnd, CompleteChoice, Usage
from engine.server.streaming import ResponseStream


class Choices:
    """At least one stream; `num_per_prompt` of them in a row have the same prompt."""

    def __init__(self, streams: Sequence[ResponseStream], num_per_prompt: int = 1) -> None:
        self.streams = tuple(streams)
        self._num_per_prompt = num_per_prompt

    @property
    def usage(self) -> Usage:
        """Tokens so far: each prompt counts once."""
        usages = [stream.usage for stream in self.streams]
        if len(usages) == 1:
            return usages[0]
        prompts = usages[:: self._num_per_prompt]
        return Usage(
            sum(usage.prompt_tokens for usage in prompts),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in prompts),
            None if usages[0].reasoning_tokens is None else sum(usage.reasoning_tokens or 0 for usage in usages),
        )

    def cancel(self) -> None:
        """The client has disconnected."""
        for stream in self.streams:
            stream.cancel()

    async def complete(self) -> list[CompleteChoice] | None:
        """All choices, complete; None if the client has disconnected. Raises RequestError."""
        choices = await asyncio.gather(*map(_complete, self.streams))
        return None if None in choices else [choice for choice in choices if choice is not None]

    async def texts(self, interval: float = 0.0) -> AsyncGenerator[tuple[int, str], None]:
        """(choice, its next text); an empty text at its end. Raises RequestError.

        `interval`: seconds for which a choice gathers tokens after each text.
        """
        if len(self.streams) == 1:  # without a generator in between: this is the server's hot path
            stream = self.streams[0]
            async for text in stream:
                yield 0, text
                if interval:
                    await stream.wait_for_more(interval)
            if stream.end is not None:
                yield 0, ""
            return
        sources = [_texts(stream, interval) for stream in self.streams]
        tasks = {asyncio.create_task(_next(source)): index for index, source in enumerate(sources)}
        try:
            while tasks:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.__getitem__):
                    index, next_text = tasks.pop(task), task.result()
                    if next_text is not None:
                        yield index, next_text
                        tasks[asyncio.create_task(_next(sources[index]))] = index
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _texts(stream: ResponseStream, interval: float) -> AsyncIterator[str]:
    async for text in stream:
        yield text
        if interval:
            await stream.wait_for_more(interval)
    if stream.end is not None:
        yield ""


async def _next(source: AsyncIterator[str]) -> str | None:
    return await anext(source, None)


async def _complete(stream: ResponseStream) -> CompleteChoice | None:
    text = "".join([piece async for piece in stream])
    end: ChoiceEnd | None = stream.end
    return None if end is None else CompleteChoice(text, end, stream.take_logprobs(), stream.take_fields())
