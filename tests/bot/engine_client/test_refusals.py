"""Refusals in the shapes that servers give them: what the client makes of them, and what the log has."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded
from bot.errors import Busy, EngineRefused, EngineUnavailable
from tests.bot.engine_client.wire_kit import SECRET, ask, ask_once
from tests.fakes.engine.wire import WireServer, refusing

FORMS: dict[str, Any] = {
    "object": lambda text: {"error": {"message": text}},
    "string": lambda text: {"error": text},
    "detail": lambda text: {"detail": text},
    "details": lambda text: {"detail": [{"loc": ["body", "x"], "msg": text, "type": "value_error", "input": SECRET}]},
    "message": lambda text: {"message": text},
    "nested": lambda text: {"error": {"error": {"message": {"message": text}}}},
    "json in a string": lambda text: {"error": {"message": '{"error": {"message": "' + text + '"}}'}},
    "openrouter": lambda text: {"error": {"message": "Provider error", "metadata": {"raw": f'{{"detail": "{text}"}}'}}},
    "aws": lambda text: {"Message": text},
    "list": lambda text: [{"error": {"message": text, "status": "INVALID_ARGUMENT"}}],
    "asp.net": lambda text: {"title": "Validation failed", "errors": {"x": [text]}},
    "unheard of": lambda text: {"fault": {"faultstring": text}},
    "plain": lambda text: text,
    "html": lambda text: f"<html><head><title>{text}</title><style>b {{}}</style></head><body><hr>nginx</body></html>",
}


@pytest.mark.parametrize("form", FORMS)
class TestForms:
    async def test_case_07_a_field(self, form: str):
        body = FORMS[form]("Unrecognized request argument supplied: cache_salt")
        assert (await ask_once(refusing(400, body, lambda sent: "cache_salt" in sent)))[0] == "ok"

    async def test_case_07_a_length(self, form: str):
        body = FORMS[form]("the prompt is too long: 5000 tokens, and the context length is 4096")
        with pytest.raises(ContextExceeded) as caught:
            await ask_once(refusing(400, body))
        assert (caught.value.context_length, caught.value.num_prompt_tokens) == (4096, 5000)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500, 502])
    async def test_case_07_its_words_are_in_the_reason_and_the_members_are_not(self, form: str, status: int):
        text = f"the moon is in the wrong phase for ({SECRET})"
        with pytest.raises(EngineUnavailable) as caught:
            await ask_once(refusing(status, FORMS[form](text)))
        reason = caught.value.reason
        assert "the moon is in the wrong phase" in reason
        assert "Zebedee" not in reason
        assert "\n" not in reason
        assert len(reason) < 300


@pytest.mark.parametrize(
    "text",
    [
        "bad value 'pseudonym-of-ann' of salt-of-guild",
        f"cannot parse {SECRET[3:24]}",
        "[{'loc': ('body', 'messages'), 'input': 'Zebedee'}]",
        f"bad: {SECRET.upper()}",
        "bad: " + " | ".join(SECRET.split()),
        "bad: " + SECRET.replace(" ", "\\n"),
        "invalid: \\u007a hamster Zebedee sings",
    ],
)
async def test_case_07_nothing_of_the_request_is_repeated(text: str):
    with pytest.raises(EngineRefused) as caught:
        await ask_once(refusing(400, {"error": {"message": text}}))
    for word in ("pseudonym", "salt-of", "Zebedee", "hamster"):
        assert word.lower() not in caught.value.reason.lower()


@pytest.mark.parametrize("body", ["", {}, [], {"error": None}, {"error": {}}, {"error": 5}, "[" * 30_000, "\x00\n"])
async def test_case_07_a_refusal_that_says_nothing(body: object):
    with pytest.raises(EngineRefused, match="HTTP 400"):
        await ask_once(refusing(400, body))


class TestFields:
    @pytest.mark.parametrize(
        ("field", "message", "param"),
        [
            ("temperature", "Unsupported value: 'temperature' does not support 0.6 with this model.", "temperature"),
            ("temperature", "`temperature` is deprecated for this model.", None),
            ("top_p", "`temperature` and `top_p` cannot both be specified for this model.", None),
            ("top_p", "top_p must be greater than or equal to 0.95", None),
            ("user", "property 'user' is unsupported", None),
            ("stream_options", 'json: unknown field "stream_options"', None),
            ("max_tokens", "Use 'max_completion_tokens' instead of 'max_tokens'.", "max_tokens"),
            ("max_tokens", "max_tokens is too large: 512. This model supports at most 256 completion tokens", None),
            ("cache_salt", "Extra inputs are not permitted", None),
            ("user", 'BAD_REQUEST: {"message":"Bad request: json: unknown field \\"user\\""}', None),
            ("user", "Invalid 'user': string too long. Expected a string with maximum length 16", "user"),
            ("cache_salt", "Argument not supported on this model: cacheSalt", None),
            ("temperature", "API 调用参数有误：temperature 参数非法", None),
            ("cache_salt", "#: extraneous key [cache_salt] is not permitted, please reformat your input", None),
            ("cache_salt", "Additional properties are not allowed", "body.cache_salt"),
        ],
    )
    async def test_case_09_left_out_remembered_and_said_once(self, field: str, message: str, param: str | None):
        answer = refusing(400, {"error": {"message": message, "param": param}}, lambda sent: field in sent)
        async with WireServer(answer) as server, EngineClient(server.url) as client:
            with structlog.testing.capture_logs() as logged:
                assert (await ask(client))[0] == "ok"
                first = len(server.bodies)
                assert (await ask(client))[0] == "ok"
        assert len(server.bodies) == first + 1
        assert field not in server.bodies[-1]
        assert [entry["field"] for entry in logged if "field" in entry] == [field]
        kept = {"temperature", "top_p", "user", "cache_salt", "stream_options"} - {field}
        assert kept <= set(server.bodies[-1])

    async def test_case_09_a_limit_of_tokens_by_neither_name(self):
        def refuses(sent: dict[str, Any]) -> bool:
            return bool({"max_tokens", "max_completion_tokens"} & set(sent))

        body = {"detail": "Unknown parameter: max_tokens, max_completion_tokens"}
        assert (await ask_once(refusing(422, body, refuses)))[0] == "ok"

    async def test_case_09_nothing_is_remembered_of_a_refusal_that_stays(self):
        async with WireServer(refusing(400, {"error": "the temperature of the room is wrong"})) as server:
            async with EngineClient(server.url) as client:
                with pytest.raises(EngineRefused, match="room"):
                    await ask(client)
                server.answer = refusing(400, "", lambda sent: False)
                await ask(client)
            assert "temperature" in server.bodies[-1]

    @pytest.mark.parametrize(
        "message",
        [
            'roles must alternate between "user" and "assistant"',
            "Invalid role: user",
            "last message must have role 'user'",
        ],
    )
    async def test_case_09_a_role_is_no_field(self, message: str):
        async with WireServer(refusing(400, {"error": message})) as server, EngineClient(server.url) as client:
            with pytest.raises(EngineRefused):
                await ask(client)
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "message",
    [
        "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12000. The input or output tokens "
        "must be reduced in order to run successfully.",
        "Request too large for model `llama`: Limit 6000, Requested 9000, please reduce your message size.",
    ],
)
async def test_case_08_a_429_that_waiting_does_not_mend(message: str):
    with pytest.raises(ContextExceeded) as caught:
        await ask_once(refusing(429, {"error": {"message": message, "code": "rate_limit_exceeded"}}))
    assert caught.value.context_length == 0  # a quota is no context
    with pytest.raises(Busy):
        await ask_once(refusing(429, {"error": "Rate limit reached: Limit 6000, Used 5000, Requested 3000"}))
