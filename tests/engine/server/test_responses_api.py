"""/v1/responses with the openai client: one answer, streams, structured outputs, and what is refused by name."""

from typing import Any

import openai
import pytest

from tests.engine.server.conftest import Served


async def test_a_text_with_instructions(served: Served) -> None:
    served.engine.replies = ["안녕!".encode()]
    response = await served.client.responses.create(
        model="tiny", input="Hello", instructions="Be kind.", max_output_tokens=50, temperature=0.5, metadata={"a": "b"}
    )
    assert (response.output_text, response.status, response.model) == ("안녕!", "completed", "tiny")
    assert (response.instructions, response.max_output_tokens, response.metadata) == ("Be kind.", 50, {"a": "b"})
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (29, 7, 36)
    assert response.usage.input_tokens_details.cached_tokens == 3
    request = served.engine.submitted[0]
    assert bytes(request.prompt) == b"system: Be kind.\nuser: Hello\n"
    assert (request.params.temperature, request.params.max_tokens) == (0.5, 50)


async def test_a_dialog_of_items(served: Served) -> None:
    served.engine.replies = [b"x"]
    first = {"role": "user", "content": [{"type": "input_text", "text": "one"}]}
    said = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [
        {"type": "output_text", "text": "two", "annotations": []}]}  # fmt: skip
    items: list[Any] = [first, said, {"role": "developer", "content": "three"}, {"role": "user", "content": "four"}]
    await served.client.responses.create(model="tiny", input=items, store=False, extra_body={"top_k": 4, "n": 1})
    assert bytes(served.engine.submitted[0].prompt) == b"user: one\nassistant: two\nsystem: three\nuser: four\n"
    assert served.engine.submitted[0].params.logits.top_k == 4


@pytest.mark.parametrize(("limit", "status"), [(50, "completed"), (3, "incomplete")])
async def test_the_events_of_a_stream(served: Served, limit: int, status: str) -> None:
    served.engine.replies = [b"one two"]
    async with served.client.responses.stream(model="tiny", input="Hello", max_output_tokens=limit) as stream:
        events = [event async for event in stream]
    assert events[-1].type in ("response.completed", "response.incomplete")
    final = events[-1].response
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", f"response.{status}",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "one two"[:limit]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert (final.output_text, final.status) == (text, status)
    assert (final.incomplete_details is None) == (status == "completed")
    assert final.usage is not None
    assert final.usage.output_tokens == len(text)


async def test_an_engine_that_fails_ends_the_stream_with_its_event(served: Served) -> None:
    stream = await served.client.responses.create(model="tiny", input="Hello", stream=True)
    request = await served.engine.next_request()
    request.deliver(b"a")
    request.deliver([], "error", "it broke")
    *_, last = [event async for event in stream]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "it broke" in last.response.error.message


async def test_structured_output(served: Served) -> None:
    served.engine.replies = [b"x"]
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    text: Any = {"format": {"type": "json_schema", "name": "empty", "schema": schema, "strict": True}}
    await served.client.responses.create(model="tiny", input="Hello", text=text)
    constraint = served.engine.submitted[0].constraint
    assert constraint is not None
    assert constraint.mask()[ord("{") // 8] >> ord("{") % 8 & 1
    bad: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await served.client.responses.create(model="tiny", input="Hello", text=bad)
    assert caught.value.param == "text.format"


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "type"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"messages": [USER]}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"n": 2}, "n"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input"),
        ({"input": [USER, {"type": "function_call_output", "output": "x"}]}, "input[1].type"),
        ({"input": [USER, {"role": "boss", "content": "x"}], "instructions": "y"}, "input[1].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": "x" * 500}, "input"),
        ({"temperature": 3}, "temperature"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(served: Served, fields: dict[str, Any], param: str) -> None:
    response = await served.http.post("/v1/responses", json={"input": "Hello", **fields})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"].startswith(param)
    assert param.rpartition(".")[2].split("[")[0] in error["message"]
    assert not served.engine.submitted
