"""Asks the model for a short answer of its own: notes for the memory, who speaks next. No member sees it.

Knows the engine's client and the member for whom it asks; knows nothing of what the answer is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from bot.engine_client.engine import Engine
from bot.engine_client.errors import ContextExceeded
from bot.engine_client.messages import Delta, Message
from bot.engine_client.pseudonyms import Pseudonyms
from bot.errors import PromptTooLong
from bot.settings import Settings
from models.application import TERMINAL
from models.types import DialogKey

_MAX_CHARS = 8000
_THINKING_TOKENS = 1024
"""More for a model that was asked to think."""


class ShortAnswers:
    """Short answers of one engine."""

    def __init__(
        self, engine: Engine, settings: Settings, application: Callable[[], int | None] = lambda: TERMINAL
    ) -> None:
        """`application`: as of `Pseudonyms`."""
        self._engine = engine
        self._pseudonyms = Pseudonyms(settings, application)
        self._thinking_tokens = _THINKING_TOKENS if settings.thinking else 0

    async def are_busy(self, key: DialogKey) -> bool:
        """Whether the server that this member's requests go to has others to answer now, as far as it tells."""
        return await self._engine.is_busy(self._pseudonyms.cache_salt(key))

    async def ask(
        self, key: DialogKey, messages: Sequence[Message], *, max_tokens: int, response_format: dict[str, object]
    ) -> str:
        """The answer to one prompt, as this member's request, without what the model thinks. Raises a BotError."""
        pieces: list[str] = []
        num_chars = 0
        events = self._engine.stream(
            messages,
            temperature=0.0,
            top_p=1.0,
            max_tokens=max_tokens + self._thinking_tokens,
            user=self._pseudonyms.user(key),
            cache_salt=self._pseudonyms.cache_salt(key),
            response_format=response_format,
        )
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Delta):
                        pieces.append(event.text)
                        num_chars += len(event.text)
                        if num_chars > _MAX_CHARS:
                            break
        except ContextExceeded as exceeded:  # unlike the prompt of a reply, this one cannot be made shorter
            raise PromptTooLong(exceeded.context_length, exceeded.num_prompt_tokens) from exceeded
        return "".join(pieces)[:_MAX_CHARS]


def json_format(name: str, properties: Mapping[str, object]) -> dict[str, object]:
    """`response_format` for a JSON object that has exactly these properties."""
    schema = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
