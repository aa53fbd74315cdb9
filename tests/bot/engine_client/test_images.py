"""Pictures in a prompt: how they are sent, and how the bot finds out whether a model sees them."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import pytest
from PIL import Image
from structlog.testing import capture_logs

from bot.chat.prompts.prompt import max_token_count
from bot.engine_client.client import EngineClient
from bot.engine_client.errors import PromptRefused
from bot.engine_client.images.refusal import refuses_images
from bot.engine_client.images.support import NUMBER, has_seen, sight_test
from bot.engine_client.messages import Delta, Message, content_with_images, count_images, image_part, text_of
from bot.engine_client.refusals.refusal import Refusal
from bot.errors import Busy, EngineUnavailable, ImagesNotSeen
from engine.server.protocol.errors import RequestError
from engine.server.protocol.request_body import validate
from engine.server.protocol.requests import ChatRequest
from tests.fakes.engine import FakeEngine
from tests.fakes.engine.script import Script, pictures
from tests.fakes.engine.wire import WireServer, chunk, events, refusing


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


def prompt(words: str = "What is this?") -> list[Message]:
    return [Message(role="user", content=content_with_images(words, [image_part("image/png", png())]))]


async def ask(client: EngineClient, messages: list[Message]) -> str:
    said = ""
    async for event in client.stream(
        messages, temperature=0.6, top_p=0.9, max_tokens=50, user="pseudonym", cache_salt="salt-of-guild"
    ):
        said += event.text if isinstance(event, Delta) else ""
    return said


class TestMessages:
    def test_text_and_pictures(self):
        message = prompt("Hello")[0]
        assert text_of(message) == "Hello"
        assert count_images([message, Message(role="user", content="x")]) == 1
        assert content_with_images("x", []) == "x"

    def test_a_picture_counts_as_more_tokens_than_any_model_takes(self):
        assert max_token_count(prompt()) > 6404 + max_token_count([Message(role="user", content="")])

    async def test_what_is_sent(self, engine: FakeEngine, client: EngineClient):
        engine.images = "seen"
        assert await ask(client, prompt("Which colour?")) == "You said: Which colour?"
        kinds = [part["type"] for part in engine.requests[0].messages[0]["content"]]
        assert kinds == ["image_url", "text"]
        url = pictures(engine.requests[0].messages)[0]
        assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == png()


class TestSightTest:
    def test_the_picture_shows_the_number(self):
        content = sight_test()[0]["content"]
        assert isinstance(content, list)
        assert content[0]["type"] == "image_url"
        data = base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])
        assert len(data) < 5000
        image = Image.open(io.BytesIO(data))
        image.load()
        assert image.size == (448, 448)
        left, top, right, bottom = image.point(lambda value: 255 - value).getbbox() or (0, 0, 0, 0)
        block = (bottom - top) // 5
        drawn = [
            "".join(
                "#" if image.getpixel((left + column * block + 5, top + row * block + 5)) == 0 else "."
                for column in range(11)
            )
            for row in range(5)
        ]
        assert (right - left) // block == 11
        assert drawn == ["###.#.#.###", "..#.#.#...#", "..#.###.###", "..#...#.#..", "..#...#.###"]
        assert NUMBER == "742"

    @pytest.mark.parametrize(
        ("answer", "tokens", "seen"),
        [
            ("742", 20, True),
            ("The number is 7 4 2.", 20, True),
            ("I cannot see any picture.", 20, False),
            ("123", 20, False),
            ("", 300, True),  # it thinks, or reads badly
            ("142", 280, True),
            ("143", None, True),
        ],
    )
    def test_what_an_answer_says(self, answer: str, tokens: int | None, seen: bool):
        assert has_seen(answer, tokens) is seen


class TestAcceptsImages:
    async def test_a_model_that_sees_is_asked_once(self, engine: FakeEngine, client: EngineClient):
        engine.images = "seen"
        engine.reply(NUMBER)
        assert await asyncio.gather(*(client.accepts_images() for _ in range(5))) == [True] * 5
        assert len(engine.requests) == 1
        assert engine.requests[0].body["max_tokens"] == 16

    async def test_our_own_engine_sees_none(self, engine: FakeEngine, client: EngineClient):
        assert await client.accepts_images() is False
        chats = engine.calls.count("/v1/chat/completions")
        assert await client.accepts_images() is False
        assert engine.calls.count("/v1/chat/completions") == chats == 1
        assert await ask(client, [Message(role="user", content="words still work")]) == "You said: words still work"

    async def test_a_server_that_drops_pictures_without_a_word(self, engine: FakeEngine, client: EngineClient):
        engine.images = "ignored"
        engine.reply("Blue")
        assert await client.accepts_images() is False

    async def test_the_first_refusal_answers_it_too(self, engine: FakeEngine, client: EngineClient):
        with pytest.raises(ImagesNotSeen, match="HTTP 400") as caught:
            await ask(client, prompt())
        assert caught.value.user_message == (
            "The model that I use here sees no pictures. Please describe them in words."
        )
        before = len(engine.calls)
        assert await client.accepts_images() is False
        assert len(engine.calls) == before

    async def test_another_model_is_asked_anew(self, engine: FakeEngine, client: EngineClient):
        assert await client.accepts_images() is False
        engine.models, engine.images = ["model-with-eyes"], "seen"
        with pytest.raises(EngineUnavailable):
            await ask(client, [Message(role="user", content="Hi")])  # the old name is unknown now
        engine.reply(NUMBER)
        assert await client.accepts_images() is True

    @pytest.mark.parametrize(("status", "error"), [(429, Busy), (503, EngineUnavailable), (401, EngineUnavailable)])
    async def test_a_failure_is_no_answer(
        self, engine: FakeEngine, client: EngineClient, status: int, error: type[Exception]
    ):
        engine.images = "seen"
        engine.fail(status)
        with pytest.raises(error):
            await client.accepts_images()
        engine.reply(NUMBER)
        assert await client.accepts_images() is True

    async def test_fields_that_the_server_refuses_are_left_out(self):
        async with FakeEngine(refused_fields=frozenset({"cache_salt"})) as engine, EngineClient(engine.url) as client:
            engine.images = "seen"
            engine.reply(NUMBER)
            assert await client.accepts_images() is True


REFUSALS = [
    (400, {"error": {"message": "'messages[0].content[0].type' is not supported: the only type of a part is 'text'."}}),
    (400, {"object": "error", "message": "m is not a multimodal model", "code": 400}),
    (400, {"object": "error", "message": "At most 0 image(s) may be provided in one prompt.", "code": 400}),
    (
        500,
        {"error": {"code": 500, "message": "image input is not supported - hint: you may need to provide the mmproj"}},
    ),
    (404, {"error": {"message": "No endpoints found that support image input", "code": 404}}),
    (400, {"error": "Model does not support images. Please use a model that does."}),
    (400, {"error": {"message": "Invalid content type. image_url is only supported by certain models.", "type": "x"}}),
    (
        422,
        {
            "detail": [
                {
                    "loc": ["body", "messages", 0, "content"],
                    "msg": "Input should be a valid string",
                    "type": "string_type",
                }
            ]
        },
    ),
    (422, "Failed to deserialize the JSON body: messages[0].content: invalid type: sequence, expected a string"),
    (400, {"error": {"message": "json: cannot unmarshal array into Go struct field .messages.content of type string"}}),
    (415, {"error": {"message": "This model has no vision"}}),
]
OF_ANOTHER_PICTURE = [
    "The image is too large: at most 5 MB",
    "At most 1 image(s) may be provided in one prompt.",
    "Could not process image",
    "cannot decode image data",
    "image dimensions must be at least 28",
]


class TestRefusals:
    @pytest.mark.parametrize(("status", "body"), REFUSALS)
    async def test_in_the_words_of_many_servers(self, status: int, body: Any):
        async with WireServer(refusing(status, body)) as server, EngineClient(server.url) as client:
            with pytest.raises(ImagesNotSeen):
                await ask(client, prompt())
            assert await client.accepts_images() is False
            assert len(server.bodies) == 1

    async def test_inside_the_stream(self):
        answer = events({"error": {"message": "this model is missing data required for image input"}}, done=False)
        async with WireServer(answer) as server, EngineClient(server.url) as client:
            with pytest.raises(ImagesNotSeen):
                await ask(client, prompt())

    @pytest.mark.parametrize("text", OF_ANOTHER_PICTURE)
    async def test_of_one_picture_alone(self, text: str):
        assert not refuses_images(Refusal(text))
        async with (
            WireServer(refusing(400, {"error": {"message": text}})) as server,
            EngineClient(server.url) as client,
        ):
            with pytest.raises(PromptRefused):
                await ask(client, prompt())
            server.answer = events(chunk({"content": NUMBER}), chunk({}, "stop"))
            assert await client.accepts_images() is True

    async def test_a_model_that_has_read_one_is_not_forgotten(self):
        seen = events(chunk({"content": NUMBER}), chunk({}, "stop"))
        async with WireServer(seen) as server, EngineClient(server.url) as client:
            assert await client.accepts_images() is True
            server.answer = refusing(400, {"error": {"message": "something about the image"}})
            with pytest.raises(PromptRefused):
                await ask(client, prompt())
            assert await client.accepts_images() is True

    async def test_words_alone_are_never_refused_for_pictures(self):
        async with WireServer(refusing(*REFUSALS[1])) as server, EngineClient(server.url) as client:
            with pytest.raises(PromptRefused):
                await ask(client, [Message(role="user", content="Hi")])
            server.answer = events(chunk({"content": NUMBER}), chunk({}, "stop"))
            assert await client.accepts_images() is True

    def test_of_our_own_engine(self):
        """Its real validation, not the fake's."""
        with pytest.raises(RequestError) as caught:
            validate(ChatRequest, {"model": "m", "messages": prompt()})
        assert caught.value.status == 400
        assert refuses_images(Refusal(caught.value.message))

    async def test_no_picture_is_in_a_log_or_a_reason(self):
        data = base64.b64encode(png()).decode()
        for text in (f"bad value data:image/png;base64,{data}", f"no image please: {data}", f"vision {data[:64]}"):
            answer = refusing(400, {"error": {"message": text}})
            async with WireServer(answer) as server, EngineClient(server.url) as client:
                with capture_logs() as logged, pytest.raises(EngineUnavailable) as caught:
                    await ask(client, prompt())
            assert data[:40] not in caught.value.reason + str(logged)


async def test_an_echo_of_the_default_reply_is_no_sight(engine: FakeEngine, client: EngineClient):
    engine.images = "ignored"
    engine.default = lambda request: Script(deltas=(request.last,))
    assert await client.accepts_images() is False
