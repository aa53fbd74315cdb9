"""Names a better model to someone who chats with the embedded one, if this machine can run it and the hub answers.

Never in the way: one short question to the hub, no error, and nothing at all where it is switched off.
"""

from __future__ import annotations

import asyncio
import os

import httpx2

from bot.hub.fit import best_fit, recommended
from bot.hub.machine import this_machine
from bot.hub.resolve import gigabytes, model_store
from bot.settings import Settings

ANSWER_SECONDS = 2.0
_DEFAULT_ENDPOINT = "https://huggingface.co"
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = {"1", "ON", "YES", "TRUE"}


async def better_model(settings: Settings) -> str | None:
    """One line that names a model and its command, or None."""
    if not settings.model_hint or not settings.uses_embedded_model:
        return None
    machine = await asyncio.to_thread(this_machine)
    model = recommended(machine)
    fit = best_fit(model, machine) if model else None
    if model is None or fit is None:
        return None
    if model_store(settings).pulled(model.name) is not None:
        return f"This is the small embedded model. GUILDLLAMA_MODEL={model.name} is here already and answers better."
    if not await hub_answers():
        return None
    return (
        f"This is the small embedded model. {model.name} would answer better on this machine ({gigabytes(model)}): "
        f"guildllama models pull {model.name}"
    )


async def hub_answers() -> bool:
    """Whether the hub, or what HF_ENDPOINT names instead, answers at once."""
    if any(os.environ.get(name, "").upper() in _TRUE for name in _OFFLINE):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _DEFAULT_ENDPOINT
    try:
        async with asyncio.timeout(ANSWER_SECONDS), httpx2.AsyncClient(timeout=ANSWER_SECONDS) as client:
            response = await client.head(f"{endpoint}/api/models")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError):  # the last: a proxy of another kind
        return False
    return response.status_code < 500
