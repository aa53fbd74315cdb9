"""The hub and the store that it keeps large files in, as two servers: a token must reach the first one only.

Knows commits, sums, gates and renamed repositories as huggingface.co answers them. Runs in a thread of its own, so that
a test may wait for a process that asks it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

COMMIT = "c0ffee" + "0" * 34


@dataclass
class FakeFile:
    """One large file: it is kept outside of git, so its sha256 is known."""

    data: bytes
    claimed_size: int | None = None
    wrong: bool = False
    """Whether other bytes come than the sum says."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        return len(self.data) if self.claimed_size is None else self.claimed_size


@dataclass
class FakeRepo:
    """One repository with one commit."""

    files: dict[str, FakeFile]
    commit: str = COMMIT
    gated: bool = False


@dataclass
class FakeHub:
    """Attributes may be changed while it runs."""

    repos: dict[str, FakeRepo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, bool] = field(default_factory=dict)
    """Each token that is known, and whether its account has passed the gates."""
    cuts: list[int] = field(default_factory=list)
    """After so many bytes each of the next answers of the store is cut off."""
    stalls: list[int] = field(default_factory=list)
    """After so many bytes each of the next answers stops coming, for a while."""
    pace: float = 0.0
    links_work_once: bool = False
    """Whether a signed link to the store is refused when it is used again: it has expired meanwhile."""
    refuses_links: bool = False
    """Whether the store refuses every signed link, also a new one."""
    ignores_ranges: bool = False
    status: int = 0
    """Answer everything with this status, if not 0."""
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request to the store."""
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    strays: list[str] = field(default_factory=list)
    """What no client of the hub may do."""

    links: int = 0
    """Signed links that were given out."""
    _used: set[int] = field(default_factory=set)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert self.strays == []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(asyncio.gather(*(runner.cleanup() for runner in self._runners)))
        self._loop.close()

    async def _start(self) -> None:
        hub, store = web.Application(middlewares=[self._counted]), web.Application()
        hub.router.add_get("/api/models", self._root)
        hub.router.add_get("/api/models/{owner}/{name}", self._info)
        hub.router.add_route("*", "/{owner}/{name}/resolve/{revision}/{path}", self._resolve)
        store.router.add_get("/{owner}/{name}/{path}", self._bytes)
        self._runners, self._ports = [], []
        for app in (hub, store):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._runners.append(runner)
            self._ports.append(runner.addresses[0][1])

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.status:
            return web.json_response({"error": "on purpose"}, status=self.status)
        return await handler(request)

    async def _root(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _info(self, request: web.Request) -> web.Response:
        repo_id = self._id(request)
        repo = self.repos.get(repo_id)
        if repo is None:
            return _error(401, "RepoNotFound", "Invalid username or password.")
        if request.query.get("blobs") not in {"true", "True"}:
            self.strays.append("asked without the files' sizes")
        siblings: list[dict[str, Any]] = []
        for name, file in repo.files.items():
            lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": file.size, "blobId": "b" * 40, "lfs": lfs})
        body = {"_id": "1", "id": repo_id, "modelId": repo_id, "sha": repo.commit, "private": False, "tags": []}
        body |= {"gated": "auto" if repo.gated else False, "downloads": 1, "likes": 1, "siblings": siblings}
        return web.json_response(body | {"createdAt": "2025-01-01T00:00:00.000Z"})

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repo_id, revision, path = self._id(request), request.match_info["revision"], request.match_info["path"]
        if repo_id in self.renamed:
            return web.Response(status=307, headers={"Location": f"/{self.renamed[repo_id]}/resolve/{revision}/{path}"})
        repo = self.repos.get(repo_id)
        if repo is None:
            return _error(401, "RepoNotFound", "Invalid username or password.")
        if (refusal := self._gate(request, repo)) is not None:
            return refusal
        if revision not in {repo.commit, "main"}:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        file = repo.files.get(path)
        if file is None:
            return _error(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
        self.links += 1
        headers["Location"] = f"http://127.0.0.1:{self._ports[1]}/{repo_id}/{path}?signature={self.links}"
        return web.Response(status=302, headers=headers)

    def _gate(self, request: web.Request, repo: FakeRepo) -> web.Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        if not repo.gated or self.tokens.get(token):
            return None
        return _error(403 if token else 401, "GatedRepo", "Access to this model is restricted.")

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            self.strays.append("the token was sent to the store")
        signature = int(request.query["signature"])
        if self.refuses_links or (self.links_work_once and signature in self._used):
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        self._used.add(signature)
        file = self.repos[self._id(request)].files[request.match_info["path"]]
        data = bytes(len(file.data)) if file.wrong else file.data
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        start = 0
        headers = {"Accept-Ranges": "bytes"}
        if wanted is not None and not self.ignores_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first)
            if last or start >= len(data):
                return web.Response(status=416)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=206 if "Content-Range" in headers else 200, headers=headers)
        response.content_length = len(data) - start
        await response.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else None
        stall = self.stalls.pop(0) if self.stalls else None
        for at in range(start, len(data), 1 << 14):
            piece = data[at : at + (1 << 14)]
            if stall is not None and at - start >= stall:
                await asyncio.sleep(5)
            if cut is not None and at - start >= cut:
                assert request.transport is not None
                await asyncio.sleep(0.05)
                request.transport.close()
                return response
            await response.write(piece)
            self.sent += len(piece)
            if self.pace:
                await asyncio.sleep(self.pace)
        await response.write_eof()
        return response

    def _id(self, request: web.Request) -> str:
        return f"{request.match_info['owner']}/{request.match_info['name']}"


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)
