"""Dialogs that a template does not take as they are: changed to what it takes, or refused with what it wants."""

from typing import Any

import pytest

from engine.errors import InvalidDialog
from tests.engine.chat.template_shapes import SHAPES
from tests.engine.chat.test_template_ids import dialog, form, theirs
from tests.engine.chat.vocabulary import vocabulary

S, U, A = ("system", "Be kind."), ("user", "one"), ("assistant", "two")
LATER_SYSTEM, LATER = ("system", "Be brief."), ("user", "three")
STRICT = ["gemma-2", "gemma-3", "mistral-v1", "mistral-v3", "tekken"]


@pytest.mark.parametrize("name", ["gemma-2", "mistral-v1"])
def test_a_system_text_that_is_refused_goes_before_the_users(name: str) -> None:
    expected = theirs(name, dialog([("user", "Be kind.\n\none"), A, LATER]))
    assert form(name).encode(dialog([S, U, A, LATER])) == expected


@pytest.mark.parametrize("name", STRICT)
def test_a_system_text_in_the_middle_goes_before_the_users_that_follows(name: str) -> None:
    expected = theirs(name, dialog([U, A, ("user", "Be brief.\n\nthree")]))
    assert form(name).encode(dialog([U, A, LATER_SYSTEM, LATER])) == expected
    at_the_end = theirs(name, dialog([("user", "one\n\nBe brief.")]))
    assert form(name).encode(dialog([U, LATER_SYSTEM])) == at_the_end


@pytest.mark.parametrize("name", STRICT)
def test_messages_of_one_role_are_joined_where_roles_must_alternate(name: str) -> None:
    expected = theirs(name, dialog([("user", "one\n\nthree"), ("assistant", "two\n\ntwo"), LATER]))
    assert form(name).encode(dialog([U, LATER, A, A, LATER])) == expected


@pytest.mark.parametrize("name", ["chatml", "qwen-2.5", "qwen-3", "llama-3.0", "phi-3", "zephyr"])
def test_dialogs_that_are_taken_stay_as_they_are(name: str) -> None:
    for turns in ([U, LATER], [S, U, A, LATER_SYSTEM, LATER], [A, U], [S, LATER_SYSTEM, U]):
        assert form(name).encode(dialog(turns)) == theirs(name, dialog(turns), enable_thinking=False)


@pytest.mark.parametrize("name", STRICT)
def test_a_first_message_of_the_assistant_is_refused_with_what_is_wanted(name: str) -> None:
    with pytest.raises(InvalidDialog, match="needs a message from the user first") as caught:
        form(name).encode(dialog([A, U]))
    assert caught.value.index == 0
    with pytest.raises(InvalidDialog, match="needs a message from the user"):
        form(name).encode(dialog([A]), continue_last=True)


@pytest.mark.parametrize("name", STRICT)
def test_before_a_greeting_a_system_text_is_the_users(name: str) -> None:
    expected = theirs(name, dialog([("user", "Be kind."), A, U]))
    assert form(name).encode(dialog([S, A, U])) == expected
    system = [("user", "Be kind.\n\nBe brief.")] if name in ("gemma-2", "mistral-v1") else [S, ("user", "Be brief.")]
    assert form(name).encode(dialog([S, LATER_SYSTEM, A, U])) == theirs(name, dialog([*system, A, U]))


@pytest.mark.parametrize("name", STRICT)
def test_a_system_text_after_the_assistants_last_is_answered(name: str) -> None:
    expected = theirs(name, dialog([U, A, ("user", "Be brief.")]))
    assert form(name).encode(dialog([U, A, LATER_SYSTEM])) == expected


@pytest.mark.parametrize("name", SHAPES)
def test_the_system_text_stays_before_a_reply_that_is_continued(name: str) -> None:
    for turns in ([S, U, A], [S, U, A, LATER, ("assistant", "four")]):
        rendered = vocabulary(name)[0].decode(form(name).encode(dialog(turns), continue_last=True))
        assert all(text in rendered for _, text in turns), rendered


@pytest.mark.parametrize("name", ["mistral-v3", "tekken"])
def test_the_system_text_stays_before_the_result_of_a_tool(name: str) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {}}}
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "content": "rain", "tool_call_id": "abcdefghi"}
    turns: Any = [*dialog([S, U]), called, result]
    moved: Any = [*dialog([("user", "Be kind.\n\none")]), called, result]
    tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}]
    assert form(name).encode(turns, tools=tools) == theirs(name, moved, tools=tools)


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_is_left_out_whatever_the_order(name: str) -> None:
    for turns in ([S, LATER_SYSTEM, U, U, A, A, LATER_SYSTEM, LATER], [U, A, ("assistant", "four")]):
        rendered = vocabulary(name)[0].decode(form(name).encode(dialog(turns)))
        assert all(text in rendered for _, text in turns), rendered


@pytest.mark.parametrize("name", ["mistral-v3", "gemma-3", "tekken"])
def test_a_system_text_alone_needs_a_question_where_roles_alternate(name: str) -> None:
    with pytest.raises(InvalidDialog, match="needs a message from the user"):
        form(name).encode(dialog([S]))
