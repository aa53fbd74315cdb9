"""What only our own engine can be asked: whether it works, its numbers, and to drop what it caches.

Other servers answer neither, and that is no error: nothing here raises. Knows the engine's paths and metrics; see
docs/http-api.md.
"""

from __future__ import annotations

import contextlib
import re

import httpx2
import structlog

from bot.engine_client.http.transport import Transport
from bot.i18n.language import NP_

log = structlog.get_logger(__name__)

_METRICS_SECONDS = 5.0
_REQUESTS = re.compile(r"^guildllama_engine_(?:running|waiting) (\d+(?:\.\d+)?)", re.MULTILINE)
"""The gauges that count requests (engine/server/metrics.py)."""
_READING = "reading weights"
_STAGES = frozenset(
    {
        NP_("loading", "reading weights"),
        NP_("loading", "preparing the device"),
        NP_("loading", "recording steps"),
        NP_("loading", "restoring dialogs"),
    }
)
"""Of engine/load_progress.py; other words of a server are not shown to members."""
_NO_SUCH_ENDPOINT = {404, 405, 501}


class OwnEngine:
    """The endpoints that our engine adds to OpenAI's, at one server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.can_erase = True
        """Until the server turns out not to know how."""

    async def is_busy(self) -> bool:
        """Whether our own engine has requests that run or wait, those of other clients included.

        False if that is not known: other servers have other names for these numbers, or none.
        """
        return any(float(number) > 0 for number in _REQUESTS.findall(await self.metrics()))

    async def metrics(self) -> str:
        """The text of the server's /metrics, also of a server that is not ours; "" if there is none, or no answer."""
        with contextlib.suppress(httpx2.HTTPError, OSError):
            response = await self._transport.get("/metrics", timeout=_METRICS_SECONDS)
            if response.status_code == 200:
                return response.text
        return ""

    async def erase_cache(self, cache_salt: str) -> bool:
        """Have the engine drop what it caches of prompts with this salt; whether it has.

        Another server is asked once.
        """
        if not self.can_erase:
            return False
        try:
            response = await self._transport.post("/cache/erase", {"cache_salt": cache_salt})
        except (httpx2.HTTPError, OSError) as error:
            log.warning(
                "the engine's cache could not be erased", reason=type(error).__name__, **self._transport.log_fields
            )
            return False
        self.can_erase = response.status_code not in _NO_SUCH_ENDPOINT
        if self.can_erase and response.status_code != 200:
            fields = self._transport.log_fields
            log.warning("the engine's cache could not be erased", status=response.status_code, **fields)
        return response.status_code == 200


def load_progress(response: httpx2.Response) -> str:
    """How far our engine is with loading its model, as its /health says: "43 %", or the stage; "" if it does not."""
    if response.status_code != 503:
        return ""
    try:
        progress = response.json()["progress"]
        percent, stage = progress["percent"], progress["stage"]
    except (ValueError, KeyError, TypeError):
        return ""
    if isinstance(percent, int) and 0 <= percent <= 100 and stage == _READING:
        return f"{percent} %"
    return stage if isinstance(stage, str) and stage in _STAGES else ""
