"""A CDN on a real socket: files by path, and paths that misbehave."""

from __future__ import annotations

import asyncio
from typing import Self

from aiohttp import web


class Cdn:
    """Serves `files`; paths below /odd/ misbehave as they are named."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[web.Request] = []
        self.failures = 0  # of the next requests, each a 503
        self.running = 0
        self.max_running = 0
        self.pause = 0.0
        self.sent = 0
        self.redirect_to = ""
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/attachments/{name:.*}", self._file)
        app.router.add_get("/odd/{what}", self._odd)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def add(self, name: str, data: bytes) -> str:
        """The address of a new file."""
        self.files[name] = data
        return f"{self.url}/attachments/{name}"

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await asyncio.sleep(self.pause)
        finally:
            self.running -= 1
        if self.failures:
            self.failures -= 1
            return web.Response(status=503)
        data = self.files.get(request.match_info["name"])
        return web.Response(status=404) if data is None else web.Response(body=data)

    async def _odd(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        what = request.match_info["what"]
        if what == "redirect":
            return web.Response(status=302, headers={"Location": self.redirect_to})
        if what == "gzip":
            return web.Response(body=b"\x1f\x8b" + bytes(100), headers={"Content-Encoding": "gzip"})
        if what.isdigit():
            return web.Response(status=int(what), text="a page that is no file")
        headers = {"Content-Length": "100000"} if what in {"cut", "silent"} else {}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if what == "cut":
            await response.write(b"x" * 5000)
            if request.transport is not None:
                request.transport.abort()
        elif what == "silent":
            await response.write(b"x" * 5000)
            await asyncio.sleep(60)
        elif what == "endless":
            while True:
                await response.write(b"line of text\n" * 5000)
                self.sent += 65_000
        elif what == "trickle":
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.05)
        return response
