"""Who may use the server: Host, Origin, content type, and addresses that need a key."""

import json
from collections.abc import AsyncIterator

import pytest

from engine.errors import ConfigError
from engine.server.args import ServeOptions, UsageError, parse
from engine.server.network.access import AccessPolicy
from engine.server.network.sockets import open_listener
from tests.engine.server.conftest import Served, serve

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
JSON = {"content-type": "application/json"}
PATH = "/v1/chat/completions"


async def post(served: Served, **headers: str) -> tuple[int, str | None]:
    """The status and the error's code."""
    served.engine.replies = [b"ok"]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await served.http.post(PATH, content=BODY, headers=JSON | named)
    body = response.json()
    return response.status_code, body["error"]["code"] if "error" in body else None


@pytest.fixture
async def open_to_names() -> AsyncIterator[Served]:
    """A server with names and web pages of its own."""
    access = AccessPolicy("127.0.0.1", frozenset({"engine.lan"}), frozenset({"https://chat.example"}))
    async with serve(access=access) as served:
        served.load()
        yield served


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7", "[::2]"],
)
async def test_attack_a_name_that_was_pointed_at_this_machine_is_refused(served: Served, host: str) -> None:
    assert await post(served, host=host) == (403, "host_not_allowed")
    for path in ("/v1/models", "/health", "/metrics"):
        assert (await served.http.get(path, headers={"host": host})).status_code == 403
    assert not served.engine.submitted


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "user@localhost",
        "localhost:x",
        "localhost/..",
        "http://localhost",
        "2130706433",
        "[::1]evil.example",
        "[::1].",
        "[::1",
        "::1",
        "[127.0.0.1]evil.example:80",
        "localhost..",
        ".localhost",
        "-.localhost",
        "*.localhost",
        "localhost:0",
        "localhost:99999",
        "localhost:80:80",
        "localhost,evil.example",
        "localhost#",
        "localhost?",
        "[]",
        "localhost\\evil.example",
        "0x7f000001",
        "127.1",
        "0177.0.0.1",
        "a" * 300 + ".localhost",
    ],
)
async def test_attack_a_host_of_another_form_is_refused(served: Served, host: str) -> None:
    assert (await post(served, host=host))[0] in (400, 403)
    assert not served.engine.submitted


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8000",
        "127.8.9.1",
        "[::1]:80",
        "a.localhost",
        "localhost.",
        "localhost:",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]:8000",
        "my-app_1.localhost",
    ],
)
async def test_names_of_this_machine_are_accepted(served: Served, host: str) -> None:
    assert await post(served, host=host) == (200, None)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:1", "file://", "chrome-extension://x"],
)
async def test_attack_a_web_page_of_another_origin_is_refused(served: Served, origin: str) -> None:
    assert await post(served, origin=origin) == (403, "origin_not_allowed")
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    response = await served.http.options(PATH, headers=preflight)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    assert not served.engine.submitted


async def test_flags_allow_names_and_web_pages(open_to_names: Served) -> None:
    assert await post(open_to_names, host="Engine.LAN:8000", origin="https://chat.example") == (200, None)
    assert await post(open_to_names, host="other.lan") == (403, "host_not_allowed")
    assert await post(open_to_names, origin="https://chat.example.evil") == (403, "origin_not_allowed")
    preflight = {
        "origin": "https://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    response = await open_to_names.http.options(PATH, headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    assert "authorization" in response.headers["access-control-allow-headers"]
    response = await open_to_names.http.get("/health", headers={"origin": "https://chat.example"})
    assert response.headers["access-control-allow-origin"] == "https://chat.example"


async def test_a_page_of_the_server_itself_is_no_other_origin(served: Served) -> None:
    here = f"127.0.0.1:{served.port}"
    assert await post(served, host=here, origin=f"http://{here}") == (200, None)


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data", "",
             "text/plain, application/json", "text/json"]
)  # fmt: skip
async def test_attack_a_body_of_another_type_is_refused(served: Served, kind: str) -> None:
    assert await post(served, content_type=kind) == (415, "unsupported_media_type")
    for path in ("/v1/completions", "/tokenize", "/detokenize"):
        assert (await served.http.post(path, content=b"{}", headers={"content-type": kind})).status_code == 415
    assert (await served.http.post(PATH, content=BODY)).status_code == 415
    assert not served.engine.submitted


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "identity, zstd", "x"])
async def test_attack_a_packed_body_is_refused_by_name(served: Served, coding: str) -> None:
    assert await post(served, content_encoding=coding) == (415, "unsupported_media_type")
    assert await post(served, content_encoding="identity") == (200, None)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
async def test_json_types_are_accepted(served: Served, kind: str) -> None:
    assert await post(served, content_type=kind) == (200, None)


def test_a_server_of_all_addresses_takes_addresses_and_no_names() -> None:
    from starlette.datastructures import Headers

    from engine.server.protocol.errors import RequestError

    for bound in ("0.0.0.0", "::", ""):
        policy = AccessPolicy(bound)
        policy.check(Headers({"host": "192.168.1.5:8000"}))
        with pytest.raises(RequestError, match="--allowed-host"):
            policy.check(Headers({"host": "evil.example"}))
    AccessPolicy("192.168.1.5").check(Headers({"host": "192.168.1.5"}))
    AccessPolicy("gpu.lan").check(Headers({"host": "gpu.lan:8000"}))
    AccessPolicy("fe80::1%eth0").check(Headers({"host": "[fe80::1]:8000"}))
    AccessPolicy("[fd00::5]".strip("[]")).check(Headers({"host": "[FD00:0::5]:8000"}))
    AccessPolicy(None).check(Headers({"host": "whatever"}))
    AccessPolicy("127.0.0.1", frozenset({"*"}), frozenset({"*"})).check(Headers({"host": "x", "origin": "null"}))
    with pytest.raises(RequestError, match="--allowed-origin"):
        AccessPolicy(None).check(Headers({"host": "localhost", "origin": "http://localhost"}))


def test_attack_a_rebound_name_is_no_origin_of_its_own_where_all_hosts_are_allowed() -> None:
    from starlette.datastructures import Headers

    from engine.server.protocol.errors import RequestError

    with pytest.raises(RequestError, match="--allowed-origin"):
        AccessPolicy("0.0.0.0", frozenset({"*"})).check(Headers({"host": "evil.com", "origin": "http://evil.com"}))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "0", "192.168.1.5", "fe80::1", "gpu.lan", "127.1", "[::]", "::ffff:10.0.0.1", "*"]
)
def test_attack_an_address_that_others_reach_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_TEST", "secret")
    with pytest.raises(UsageError, match="--api-key-env") as caught:
        parse(["--host", host])
    assert "\n" not in str(caught.value)
    for extra in (["--api-key-env", "KEY_OF_TEST"], ["--insecure-no-api-key"], ["--uds", "/run/e.sock"]):
        assert isinstance(parse(["--host", host, *extra]), ServeOptions)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "::ffff:127.0.0.1", "LocalHost"])
def test_an_address_of_this_machine_alone_needs_no_key(host: str) -> None:
    options = parse(["--host", host, "--allowed-host", "Chat.LAN:80", "--allowed-origin", "HTTPS://chat.example/"])
    assert isinstance(options, ServeOptions)
    assert options.access == AccessPolicy(host, frozenset({"chat.lan"}), frozenset({"https://chat.example"}))


@pytest.mark.parametrize(
    "flags", [["--allowed-host", "a b"], ["--allowed-origin", "chat.example"], ["--allowed-origin", "x/y"]]
)
def test_wrong_names_are_refused(flags: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(flags)


def test_an_ipv6_address_may_come_in_brackets() -> None:
    options = parse(["--host", "[::1]", "--allowed-host", "fd00::5"])
    assert isinstance(options, ServeOptions)
    assert (options.host, options.access.allowed_hosts) == ("::1", frozenset({"fd00::5"}))


def test_attack_a_local_name_of_another_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An /etc/hosts that gives gpu.localhost an address of the network."""
    options = parse(["--host", "gpu.localhost"])
    assert isinstance(options, ServeOptions)
    assert options.local_only
    with (
        pytest.raises(ConfigError, match="without a key"),
        open_listener("0.0.0.0", 0, None, local_only=options.local_only),
    ):
        raise AssertionError("it listens")


async def test_a_key_may_have_any_characters() -> None:
    async with serve("schlüssel") as served:
        served.load()
        for key, status in (("schlüssel", 200), ("schlussel", 401)):
            headers = {"authorization": f"Bearer {key}".encode()}
            assert (await served.http.get("/v1/models", headers=headers)).status_code == status
