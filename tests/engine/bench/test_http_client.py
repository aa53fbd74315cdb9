"""The benchmark's own HTTP client."""

import asyncio

import pytest
from starlette.datastructures import Headers

from engine.bench.drive import Sampling
from engine.bench.http import HttpClient
from engine.server.network.access import AccessPolicy


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
async def test_the_host_header_names_the_server(host: str) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, host, 0)
    client = HttpClient(host, server.sockets[0].getsockname()[1], "m")
    with pytest.raises(RuntimeError, match="404"):
        await anext(client.stream([1], 1, Sampling(), client="c", tenant="t"))
    server.close()
    name = next(line for line in heads[0].decode().split("\r\n") if line.startswith("Host: "))
    AccessPolicy(host).check(Headers({"host": name.removeprefix("Host: ")}))
