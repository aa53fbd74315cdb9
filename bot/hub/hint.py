"""Suggests a better model in a chat with the embedded one, if this machine can run it and the hub answers.

Never in the way: one short question to the hub, no error, and nothing at all where it is switched off.
"""

from __future__ import annotations

import asyncio

import httpx2
from huggingface_hub import constants

from bot.hub.fit import best_fit, recommended
from bot.hub.machine import this_machine
from bot.hub.resolve import gigabytes, model_store
from bot.settings import Settings

ANSWER_SECONDS = 2.0


async def better_model(settings: Settings) -> str | None:
    """One line that names a model and its command, or None."""
    if not settings.model_hint or not settings.uses_embedded_model:
        return None
    machine = await asyncio.to_thread(this_machine)
    model = recommended(machine)
    fit = best_fit(model, machine) if model else None
    if model is None or fit is None:
        return None
    use = f"GUILDLLAMA_MODEL={model.name}{fit.settings}"
    if model_store(settings).pulled(model) is not None:
        return f"This is the small embedded model. {use} is here already and answers better."
    if not await hub_answers():
        return None
    return (
        f"This is the small embedded model. {model.name} would answer better on this machine ({gigabytes(model)}): "
        f"guildllama models pull {model.name}, then {use}"
    )


async def hub_answers() -> bool:
    """Whether the hub, or what HF_ENDPOINT names instead, answers at once."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        async with asyncio.timeout(ANSWER_SECONDS), httpx2.AsyncClient(timeout=ANSWER_SECONDS) as client:
            response = await client.head(f"{constants.ENDPOINT}/api/models")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError):  # the last: a proxy of another kind
        return False
    return response.status_code < 500
