"""What servers say of their load: our engine, vLLM and SGLang in /metrics, llama.cpp in /slots.

A server without such a page says nothing, and is asked for it once. Knows their words; decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import re

import httpx2

from bot.engine_client.http.transport import Transport
from bot.engine_client.replicas.room import Load

_SECONDS = 5.0
_MISSING = {401, 403, 404, 405, 501}
_NUMBER = r"(?:\{[^}\n]*\})? (\d{1,9}(?:\.\d+)?)(?:\s|$)"
_NAMES = (
    ("guildllama_engine_running", "guildllama_engine_waiting"),
    ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
)
_PATTERNS = tuple(
    tuple(re.compile(rf"^{re.escape(name)}{_NUMBER}", re.MULTILINE) for name in names) for names in _NAMES
)
_MAX_SLOTS = 100_000


def load_in_metrics(text: str) -> Load | None:
    """What a page of metrics says; None if it has no numbers that are known here. Several models are added up."""
    for running, waiting in _PATTERNS:
        found = running.findall(text)
        if found:
            return Load(round(sum(map(float, found))), round(sum(map(float, waiting.findall(text)))))
    return None


def load_in_slots(text: str) -> Load | None:
    """What llama.cpp's list of slots says; None if this is no such list."""
    try:
        slots = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(slots, list) or not 0 < len(slots) <= _MAX_SLOTS:
        return None
    if not all(isinstance(slot, dict) and isinstance(slot.get("is_processing"), bool) for slot in slots):
        return None
    return Load(sum(slot["is_processing"] for slot in slots), 0, len(slots))


class LoadReader:
    """Asks one server. Never raises."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._pages = {"/metrics", "/slots"}

    async def read(self) -> Load | None:
        """The load now; None if the server does not say, or not now."""
        metrics = await self._page("/metrics")
        load = load_in_metrics(metrics) if metrics else None
        if load is not None and not _is_llama_cpp(metrics):
            self._pages.discard("/slots")
            return load
        slots = await self._page("/slots")
        of_slots = load_in_slots(slots) if slots else None
        if of_slots is None:
            return load
        return Load(of_slots.running, load.waiting if load else 0, of_slots.slots)

    async def _page(self, path: str) -> str:
        if path not in self._pages:
            return ""
        with contextlib.suppress(httpx2.HTTPError, OSError):
            response = await self._transport.get(path, timeout=_SECONDS)
            if response.status_code == 200:
                return response.text
            if response.status_code in _MISSING:
                self._pages.discard(path)
        return ""


def _is_llama_cpp(metrics: str) -> bool:
    return "llamacpp:" in metrics
