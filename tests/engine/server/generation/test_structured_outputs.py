"""Structured outputs over HTTP: what reaches the engine, and what is refused by name."""

import asyncio
import threading
from typing import Any

import pytest

from engine.structured_output.compiler import GrammarCompiler, GrammarMatcher
from engine.structured_output.grammar import GrammarSpec
from tests.engine.server.conftest import Served
from tests.engine.server.scripted_engine import EOS

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


async def begins_with(served: Served, path: str = "chat/completions", **fields: object) -> set[str]:
    """The characters that the reply may begin with."""
    served.engine.replies = [b"x"] * 4
    body = {"messages": HELLO} if path == "chat/completions" else {"prompt": "x"}
    response = await served.http.post(f"/v1/{path}", json={**body, **fields})
    assert response.status_code == 200, response.text
    constraint = served.engine.submitted[-1].constraint
    assert constraint is not None
    mask = constraint.mask()
    return {chr(token_id) for token_id in range(EOS) if mask[token_id // 8] >> token_id % 8 & 1}


async def test_every_way_to_ask_for_structured_output(served: Served) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    assert await begins_with(served, response_format={"type": "json_object"}) == {"{"}
    assert await begins_with(served, response_format=schema) == {"{"}
    assert await begins_with(served, "completions", response_format=schema) == {"{"}
    assert await begins_with(served, structured_outputs={"json": {"type": "integer"}}) == {*"-0123456789"}
    assert await begins_with(served, structured_outputs={"json_object": True}) == {"{"}
    assert await begins_with(served, structured_outputs={"regex": "[ab]c"}) == {"a", "b"}
    assert await begins_with(served, structured_outputs={"choice": ["yes", "no"]}) == {"y", "n"}


async def test_no_form_no_constraint(served: Served) -> None:
    served.engine.replies = [b"x"]
    await served.http.post("/v1/chat/completions", json={"messages": HELLO, "response_format": {"type": "text"}})
    assert served.engine.submitted[0].constraint is None
    assert served.engine.submitted[0].params.logits.has_penalties is False


async def test_choices_do_not_share_where_they_are(served: Served) -> None:
    await begins_with(served, n=2, structured_outputs={"choice": ["ab", "cd"]})
    first, second = (request.constraint for request in served.engine.submitted)
    assert first is not None
    assert second is not None
    first.accept(ord("a"))
    assert first.mask() != second.mask()
    assert first.accept(ord("b"))


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "response_format",
            "not",
        ),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", "structured_outputs"),
    ],
)
async def test_a_form_that_cannot_be_kept_is_an_error_that_names_the_field(
    served: Served, fields: dict[str, Any], param: str, words: str
) -> None:
    response = await served.http.post("/v1/chat/completions", json={"messages": HELLO, **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
    assert words in error["message"]
    assert not served.engine.submitted


async def test_other_requests_go_on_while_a_schema_is_compiled(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, released = threading.Event(), threading.Event()
    compile_grammar = GrammarCompiler.compile

    def held(compiler: GrammarCompiler, spec: GrammarSpec) -> GrammarMatcher:
        entered.set()
        assert released.wait(10)
        return compile_grammar(compiler, spec)

    monkeypatch.setattr(GrammarCompiler, "compile", held)
    served.engine.replies = [b"x"]
    fields = {"messages": HELLO, "response_format": {"type": "json_object"}}
    asking = asyncio.create_task(served.http.post("/v1/chat/completions", json=fields))
    assert await asyncio.to_thread(entered.wait, 5)
    assert (await served.http.get("/health")).status_code == 200
    assert not asking.done()
    released.set()
    assert (await asking).status_code == 200
