"""`x-request-id`: taken or made, in every answer, and in the log beside a failure."""

import asyncio

import httpx
import pytest

from engine.server.network.access import AccessPolicy
from tests.engine.server.conftest import Served, serve

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


async def test_an_id_is_taken_or_made(served: Served) -> None:
    served.engine.replies = [b"x", b"x"]
    made = [(await served.http.get("/health")).headers["x-request-id"] for _ in range(2)]
    assert len({*made}) == 2
    for stream in (False, True):
        body, given = {**HELLO, "stream": stream}, {"x-request-id": "trace-1/2:3"}
        response = await served.http.post("/v1/chat/completions", json=body, headers=given)
        assert response.headers["x-request-id"] == "trace-1/2:3"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/chat/completions"])
async def test_errors_have_one_too(served: Served, path: str) -> None:
    response = await served.http.post(path, json={})
    assert response.status_code in (400, 404)
    assert response.headers["x-request-id"].startswith("req_")
    refused = await served.http.get("/health", headers={"host": "evil.com"})
    assert (refused.status_code, refused.headers["x-request-id"][:4]) == (403, "req_")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a\x7f", "<script>", '"'])
async def test_attack_an_id_that_is_none_is_replaced(served: Served, given: str) -> None:
    response = await served.http.get("/health", headers=httpx.Headers([(b"x-request-id", given.encode("latin-1"))]))
    assert response.headers["x-request-id"].startswith("req_")


async def test_attack_two_ids_are_none(served: Served) -> None:
    response = await served.http.get("/health", headers=[("x-request-id", "a"), ("x-request-id", "b")])
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_logged_with_the_id_and_without_words(
    served: Served, stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"messages": [{"role": "user", "content": "secret words"}], "stream": stream}
    asking = asyncio.create_task(served.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "abc"}))
    (await served.engine.next_request()).deliver([], "error", "it broke")
    assert "it broke" in (await asking).text
    assert capsys.readouterr().err == "engine: request abc: it broke\n"


async def test_pages_of_allowed_origins_may_read_it() -> None:
    origin = {"origin": "https://chat.example"}
    async with serve(access=AccessPolicy(allowed_origins=frozenset({"https://chat.example"}))) as served:
        response = await served.http.get("/health", headers=origin)
        assert "x-request-id" in response.headers["access-control-expose-headers"]
