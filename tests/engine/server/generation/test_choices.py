"""Several choices and prompts, log-probabilities and sampling fields over HTTP, with the openai client."""

import asyncio
import json
from typing import Any

import openai
import pytest

from engine.logits_params import LogitsParams
from engine.server.generation import submission
from tests.engine.server.conftest import Served
from tests.engine.server.scripted_engine import EOS

HELLO = [{"role": "user", "content": "Hello"}]


async def post(served: Served, path: str, **fields: object) -> Any:
    body = {"messages": HELLO} if path == "chat/completions" else {}
    response = await served.http.post(f"/v1/{path}", json={**body, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_n_choices_have_seeds_of_their_own_and_count_their_prompt_once(served: Served) -> None:
    served.engine.replies = [b"one", b"four", b"three"]
    reply = await served.client.chat.completions.create(model="tiny", messages=HELLO, n=3, seed=7)
    assert [(choice.index, choice.message.content) for choice in reply.choices] == [
        (0, "one"),
        (1, "four"),
        (2, "three"),
    ]
    assert [request.params.seed for request in served.engine.submitted] == [7, 8, 9]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (12, 12)


async def test_choices_are_streamed_as_they_come(served: Served) -> None:
    stream = await served.client.chat.completions.create(
        model="tiny", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
    )
    await served.engine.wait_for_requests(2)
    first, second = served.engine.submitted
    seen: list[tuple[int, str | None, str | None]] = []
    second.deliver(b"b")
    async for chunk in stream:
        if not chunk.choices:
            assert chunk.usage is not None
            assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens) == (12, 3)
            continue
        choice = chunk.choices[0]
        if choice.delta.role is None:
            seen.append((choice.index, choice.delta.content, choice.finish_reason))
            if seen[-1][1] == "b":
                first.deliver(b"a", "stop")
            if seen[-1] == (0, None, "stop"):
                second.deliver(b"c", "length")
    assert seen == [(1, "b", None), (0, "a", None), (0, None, "stop"), (1, "c", None), (1, None, "length")]


async def test_a_client_that_leaves_ends_every_choice(served: Served) -> None:
    stream = await served.client.chat.completions.create(model="tiny", messages=HELLO, n=3, stream=True)
    await served.engine.wait_for_requests(3)
    served.engine.submitted[1].deliver(b"x")
    await anext(aiter(stream))
    await stream.close()
    for request in served.engine.submitted:
        await request.cancelled.wait()


async def test_a_choice_that_is_refused_takes_the_others_with_it(served: Served) -> None:
    submit, count = served.engine.submit, 0

    def full(*arguments: Any, **keywords: Any) -> object:
        nonlocal count
        count += 1
        served.engine.busy = count == 3
        return submit(*arguments, **keywords)

    served.engine.submit = full  # type: ignore[method-assign,assignment]
    with pytest.raises(openai.RateLimitError):
        await served.client.chat.completions.create(model="tiny", messages=HELLO, n=4)
    assert len(served.engine.submitted) == 2
    assert all(request.cancelled.is_set() for request in served.engine.submitted)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_list_of_prompts_with_echo(served: Served, stream: bool) -> None:
    served.engine.replies = [b"1", b"2", b"3", b"4"]
    fields = {"prompt": ["ab", "é"], "n": 2, "echo": True, "max_tokens": 4}
    if not stream:
        choices = (await post(served, "completions", **fields))["choices"]
        texts = [choice["text"] for choice in choices]
    else:
        texts = [""] * 4
        async for chunk in await served.client.completions.create(model="tiny", stream=True, **fields):  # type: ignore[call-overload]
            texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["ab1", "ab2", "é3", "é4"]
    assert [request.prompt for request in served.engine.submitted] == [(97, 98)] * 2 + [tuple("é".encode())] * 2


async def test_prompts_of_ids_are_echoed_as_text(served: Served) -> None:
    served.engine.replies = [b"!", b"?"]
    body = await post(served, "completions", prompt=[[104, 105], [111]], echo=True)
    assert [choice["text"] for choice in body["choices"]] == ["hi!", "o?"]
    assert body["usage"]["prompt_tokens"] == 3


async def test_log_probabilities_of_a_chat(served: Served) -> None:
    served.engine.replies = [bytes([72, *"é".encode()]) + b"!"]
    body = await post(served, "chat/completions", logprobs=True, top_logprobs=2)
    content = body["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["bytes"], each["logprob"]) for each in content] == [
        ("H", [72], -72 / 128),
        ("bytes:\\xc3", [195], -195 / 128),
        ("bytes:\\xa9", [169], -169 / 128),
        ("!", [33], -33 / 128),
    ]
    assert content[0]["top_logprobs"] == [
        {"token": "H", "logprob": -72 / 128, "bytes": [72]},
        {"token": "I", "logprob": -73 / 128, "bytes": [73]},
    ]
    assert (await post_plain(served))["choices"][0]["logprobs"] is None


async def post_plain(served: Served) -> Any:
    served.engine.replies = [b"x"]
    return await post(served, "chat/completions")


async def test_log_probabilities_of_a_completion(served: Served) -> None:
    served.engine.replies = [b"ab" + bytes([255])]
    logprobs = (await post(served, "completions", prompt="x", logprobs=1))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "bytes:\\xff"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert logprobs["token_logprobs"] == [-97 / 128, -98 / 128, -255 / 128]
    assert logprobs["top_logprobs"][0] == {"a": -97 / 128}


async def test_a_token_without_text_has_its_id_as_its_name(served: Served) -> None:
    served.engine.replies = []
    stream = await served.client.chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, stream=True, extra_body={"ignore_eos": True}
    )
    request = await served.engine.next_request()
    request.deliver([EOS, 65], "length")
    entries = [entry async for chunk in stream for entry in tokens_of(chunk)]
    assert [(entry.token, entry.bytes) for entry in entries] == [(f"token_id:{EOS}", None), ("A", [65])]


def tokens_of(chunk: Any) -> list[Any]:
    logprobs = chunk.choices[0].logprobs
    return [] if logprobs is None else logprobs.content


@pytest.mark.parametrize(
    ("reply", "stop", "text"),
    [(b"one two", ["wo"], "one t"), (b"one two", ["two"], "one "), (b"one", ["none"], "one"), (b"abc", ["a"], "")],
)
async def test_streamed_log_probabilities_are_those_of_the_text(
    served: Served, reply: bytes, stop: list[str], text: str
) -> None:
    """Tokens of the stop string have none, and each token's comes with its own text, whatever is held back."""
    stream = await served.client.chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, stream=True, stop=stop
    )
    request = await served.engine.next_request()
    found, tokens = "", ""
    for byte in reply[:-1]:
        request.deliver([byte])
    request.deliver([reply[-1]], "stop")
    async for chunk in stream:
        found += chunk.choices[0].delta.content or ""
        tokens += "".join(entry.token for entry in tokens_of(chunk))
        assert tokens == found
    assert found == text


async def test_the_end_says_which_stop_string_it_was(served: Served) -> None:
    served.engine.replies = [b"one two"]
    choice = (await post(served, "chat/completions", stop=["x", "tw"]))["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "tw")
    assert "stop_reason" not in (await post_plain(served))["choices"][0]


async def test_the_first_min_tokens_are_part_of_no_stop_string(served: Served) -> None:
    cases = [("ab", 3, "ab "), ("b a", 2, "ab a"), ("b a", 0, "a"), ("b a", 5, "ab ab ab"), ("ab", 8, "ab ab ab")]
    for stop, min_tokens, text in cases:
        served.engine.replies = [b"ab ab ab"]
        choice = (await post(served, "chat/completions", stop=[stop], min_tokens=min_tokens))["choices"][0]
        assert choice["message"]["content"] == text


async def test_every_sampling_field_reaches_the_engine(served: Served) -> None:
    served.engine.replies = [b"x"]
    fields = {
        "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "frequency_penalty": -0.5, "presence_penalty": 2,
        "logit_bias": {"97": 5, "12": -100.0}, "min_tokens": 3, "stop_token_ids": [7, 9],
    }  # fmt: skip
    await post(served, "chat/completions", **fields)
    params = served.engine.submitted[0].params
    assert params.logits == LogitsParams(1.1, -0.5, 2.0, ((12, -100.0), (97, 5.0)), 3, 0.05, 40)
    assert params.stop_token_ids == {7, 9, EOS}
    assert params.num_logprobs is None


async def test_ignore_eos_leaves_the_request_s_own_stop_tokens_alone(served: Served) -> None:
    served.engine.replies = [b"x", b"x"]
    await post(served, "completions", prompt="x", ignore_eos=True, stop_token_ids=[7], top_k=-1)
    await post(served, "completions", prompt="x", ignore_eos=True)
    own, none = (request.params for request in served.engine.submitted)
    assert (own.stop_token_ids, own.ignore_eos, none.ignore_eos) == ({7}, False, True)
    assert own.logits == none.logits == LogitsParams()


@pytest.mark.parametrize(("name", "value"), [("stop_token_ids", [EOS + 1]), ("logit_bias", {str(EOS + 1): 1})])
async def test_ids_that_the_vocabulary_lacks_are_refused(served: Served, name: str, value: object) -> None:
    response = await served.http.post("/v1/chat/completions", json={"messages": HELLO, name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert not served.engine.submitted


async def test_an_error_in_one_choice_of_a_stream_ends_it(served: Served) -> None:
    body = {"messages": HELLO, "n": 2, "stream": True}
    async with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        await served.engine.wait_for_requests(2)
        served.engine.submitted[0].deliver(b"a", "stop")
        served.engine.submitted[1].deliver([], "error", "it broke")
        lines = [line async for line in response.aiter_lines() if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_unavailable"


async def test_attack_more_log_probabilities_than_fit_memory_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "MAX_LOGPROB_ENTRIES", 210)
    for n, max_tokens, is_taken in ((1, 10, True), (2, 10, False), (1, 11, False)):
        served.engine.replies = [b"x"]
        fields = {"n": n, "max_tokens": max_tokens, "logprobs": True, "top_logprobs": 20}
        response = await served.http.post("/v1/chat/completions", json={"messages": HELLO, **fields})
        assert (response.status_code == 200) == is_taken
        assert is_taken or response.json()["error"]["param"] == "logprobs"
    assert len(served.engine.submitted) == 1


async def test_attack_many_log_probabilities_at_once_keep_nobody_waiting(served: Served) -> None:
    """A reply that came in one piece leaves in parts, and a large body is encoded in steps, on another thread."""
    text = bytes(33 + number % 90 for number in range(300))
    for stream in (True, False):
        asking = asyncio.create_task(
            served.http.post(
                "/v1/chat/completions",
                json={"messages": HELLO, "logprobs": True, "top_logprobs": 20, "stream": stream, "max_tokens": 380},
            )
        )
        (await served.engine.next_request()).deliver(text, "stop")
        response = await asking
        if stream:
            events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
            sizes = [
                len(tokens) for each in events if (tokens := (each["choices"][0]["logprobs"] or {}).get("content"))
            ]
            assert sizes == [64, 64, 64, 64, 44]
        else:
            content = response.json()["choices"][0]["logprobs"]["content"]
            assert "".join(each["token"] for each in content) == text.decode()
            assert {len(each["top_logprobs"]) for each in content} == {20}
