"""What the rest of the bot asks of a model's server, whether one server answers or one of several.

`client.EngineClient` is one server, `replicas.replica_set.ReplicaSet` several that serve the same model. Knows neither.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal, Protocol

from bot.engine_client.messages import Message, ReplyEvent, TokenCount
from bot.engine_client.replicas.report import ReplicaReport

EngineState = Literal["loading", "ready", "restarting", "unreachable"]


class Engine(Protocol):
    """A server, or several as one. `cache_salt` is what one tenant's requests have in common."""

    @property
    def state(self) -> EngineState:
        """What is known of the server without asking it."""

    @property
    def load_progress(self) -> str:
        """While our own engine loads its model: how far it is, such as "43 %"; "" if that is not known."""

    @property
    def on_timeout(self) -> Callable[[], None]:
        """To be called when a reply timed out."""

    @property
    def shares_time(self) -> bool:
        """Whether the server is known to share its time among tenants, instead of serving in order of arrival."""

    @property
    def context_length(self) -> int | None:
        """The model's context in tokens, or None until a server has reported it."""

    @property
    def known_model(self) -> str | None:
        """The name that is asked for, or None before the first request."""

    def lane(self, cache_salt: str) -> int:
        """Which line this tenant's messages wait in: the number of its server."""

    async def ready(self) -> bool:
        """Whether a server would answer now. Never raises."""

    async def is_busy(self, cache_salt: str | None = None) -> bool:
        """Whether the server has requests that run or wait, as far as it tells. Never raises."""

    async def model(self) -> str:
        """The name to ask for."""

    async def count(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, cache_salt: str | None = None
    ) -> TokenCount | None:
        """The tokens of a prompt, or None if the server cannot count them."""

    async def erase_cache(self, cache_salt: str) -> bool:
        """Have what is cached of this tenant's prompts dropped; whether it was, everywhere. Never raises."""

    async def metrics_pages(self) -> Sequence[str]:
        """The numbers of each server, as its /metrics has them; "" for one that has none. Never raises."""

    def reports(self) -> Sequence[ReplicaReport]:
        """How each of several servers is now; of one, nothing."""

    async def accepts_images(self) -> bool:
        """Whether the model sees pictures."""

    def stream(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        user: str,
        cache_salt: str,
        frequency_penalty: float = 0.0,
        response_format: dict[str, object] | None = None,
        on_activity: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The reply piece by piece, and `Finished` last."""

    async def close(self) -> None:
        """Close every connection; running replies end."""
