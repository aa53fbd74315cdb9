"""A fake OpenAI-compatible moderation endpoint: scores texts by words, records what it was asked, and can be down."""

from __future__ import annotations

from typing import Any, Self

from aiohttp import web


class FakeModeration:
    """`scores`: the score of each category for a text that holds a word."""

    def __init__(self, key: str = "secret") -> None:
        self.scores: dict[str, tuple[str, float]] = {}
        self.key = key
        self.texts: list[str] = []
        self.answer: object = None
        """Sent instead of a judgement, if it is set."""
        self.status = 200
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/moderations", self._moderate)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _moderate(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {self.key}"
        body = await request.json()
        assert set(body) <= {"input", "model"}
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        assert all(isinstance(text, str) and text for text in texts)
        self.texts += texts
        if self.status != 200:
            return web.json_response({"error": {"message": texts[0]}}, status=self.status)
        if self.answer is not None:
            return web.json_response(self.answer)
        return web.json_response({"id": "x", "model": "fake", "results": [self._judged(text) for text in texts]})

    def _judged(self, text: str) -> dict[str, Any]:
        found = {category: score for word, (category, score) in self.scores.items() if word in text}
        scores = {"violence": 0.01, "harassment": 0.01, **found}
        categories = {category: score >= 0.5 for category, score in scores.items()}
        return {"flagged": any(categories.values()), "categories": categories, "category_scores": scores}
