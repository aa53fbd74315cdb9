"""Asks an OpenAI-compatible moderation endpoint whether a text is to be kept out.

Knows HTTP and the endpoint's answer, which is not trusted: whatever is not of its shape counts as no answer. No text
and no category of a text is ever logged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from bot.engine_client.http.transport import Transport
from bot.settings import Settings

_CHUNK_CHARS = 8000
_CHUNKS_AT_ONCE = 64
"""A longer text takes more requests, one after the other."""
_TIMEOUT = 10.0  # seconds: a member waits for it
NEVER = 1.0
"""The threshold of a category that keeps nothing out."""
MAX_CATEGORIES = 40
"""Categories for which a guild may have thresholds."""
_CATEGORY = re.compile(r"[a-z0-9][a-z0-9_/ -]{0,49}")


def category_named(text: str) -> str | None:
    """The name of a category as it is kept; None for what cannot be one."""
    name = text.strip().lower()
    return name if _CATEGORY.fullmatch(name) else None


class ModerationDown(Exception):
    """The endpoint gave no answer that can be used. `reason` holds nothing of the text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Moderation:
    """One endpoint."""

    def __init__(self, settings: Settings, url: str) -> None:
        """`url`: the base URL, as `ENGINE_URL`, or that of the endpoint itself."""
        key = settings.moderation_api_key
        self._key = None if key is None else key.get_secret_value()
        self._model = settings.moderation_model
        self._url = url if url.endswith("/moderations") else f"{url}/moderations"
        self._transport = Transport(url, self._key)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def keeps_out(self, text: str, thresholds: Mapping[str, float]) -> bool:
        """Whether a text is to be kept out. `thresholds`: scores by category, instead of the endpoint's own judgement.

        Raises ModerationDown.
        """
        chunks = [text[start : start + _CHUNK_CHARS] for start in range(0, len(text), _CHUNK_CHARS)]
        for start in range(0, len(chunks), _CHUNKS_AT_ONCE):
            results = await self._judge(chunks[start : start + _CHUNKS_AT_ONCE])
            if any(_is_kept_out(result, thresholds) for result in results):
                return True
        return False

    async def _judge(self, chunks: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        body: dict[str, object] = {"input": chunks[0] if len(chunks) == 1 else chunks}
        if self._model is not None:
            body["model"] = self._model
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        try:
            response = await self._transport.http.post(self._url, json=body, headers=headers, timeout=_TIMEOUT)
            if response.status_code != 200:
                raise ModerationDown(f"status {response.status_code}")
            return _results(response.json(), len(chunks))
        except (httpx2.HTTPError, OSError, ValueError, RecursionError) as error:
            raise ModerationDown(type(error).__name__) from None


def _results(answer: object, count: int) -> Sequence[Mapping[str, Any]]:
    found = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(found, list) or len(found) < count or not all(_is_result(each) for each in found):
        raise ModerationDown("an answer of another shape")
    return found


def _is_result(result: object) -> bool:
    return isinstance(result, dict) and isinstance(result.get("flagged"), bool)


def _is_kept_out(result: Mapping[str, Any], thresholds: Mapping[str, float]) -> bool:
    if not thresholds:
        return bool(result["flagged"])
    scores, categories = _table(result, "category_scores"), _table(result, "categories")
    for category, threshold in thresholds.items():
        score = scores.get(category)
        if isinstance(score, int | float) and threshold < NEVER and score >= threshold:
            return True
    others = [verdict for category, verdict in categories.items() if category not in thresholds]
    # An endpoint without categories has no more to say than this.
    return any(verdict is True for verdict in others) if categories else bool(result["flagged"])


def _table(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = result.get(name)
    return found if isinstance(found, dict) else {}
