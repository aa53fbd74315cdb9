"""A benchmark client for the engine's HTTP server, with one connection for each request.

It sends token ids to /v1/completions and reads server-sent events. The server answers with text, so the ids yielded
are all 0; their number is checked against the usage of the last event.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

from engine.bench.drive import Sampling


class HttpClient:
    """A benchmark client for a running server; `model` is the name that it serves."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self._host, self._port, self._model = host, port, model

    async def stream(
        self, prompt: list[int], output_len: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        """See `drive.Client`."""
        body = json.dumps(
            {
                "model": self._model, "prompt": prompt, "max_tokens": output_len, "temperature": sampling.temperature,
                "top_p": sampling.top_p, "ignore_eos": True, "stream": True, "user": client, "cache_salt": tenant,
                "stream_options": {"include_usage": True},
            }
        ).encode()  # fmt: skip
        host = f"[{self._host}]" if ":" in self._host else self._host
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        try:
            writer.write(head.encode() + body)
            seen = 0
            async for event in _events(reader):
                usage = event.get("usage")
                if isinstance(usage, dict):
                    total = int(usage["completion_tokens"])
                    if total != output_len:
                        raise RuntimeError(f"{total} tokens came where {output_len} were asked for")
                    continue
                if seen < output_len - 1:  # the last token counts at the end of the stream, which may hold back text
                    seen += 1
                    yield [0]
            yield [0] * (output_len - seen)
        finally:
            writer.close()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, object]]:
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError((status + await reader.read(2000)).decode(errors="replace"))
    while True:
        line = await reader.readline()
        if not line:
            raise RuntimeError("the server closed the stream before its end")
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
