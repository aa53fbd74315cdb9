"""Reasoning is told apart from the answer, wherever deltas end, and only where the model has marks for it."""

from collections.abc import Iterable

import pytest

from engine.chat.reasoning import ReasoningFormat, find_reasoning, reasoning_decoder
from engine.tokenizers.base import Tokenizer
from tests.engine.chat.template_shapes import SHAPES, source
from tests.engine.chat.test_template_ids import dialog, form, theirs
from tests.engine.chat.vocabulary import vocabulary

THINKERS = {"qwen-3", "deepseek-r1", "harmony"}
PLAIN = ReasoningFormat("<think>", "</think>", {})


def found(name: str) -> ReasoningFormat:
    result = form(name).reasoning
    assert result is not None
    return result


def split(ids: Iterable[int], name: str, prompt: list[int], reasoning: ReasoningFormat) -> tuple[str, str, int]:
    decoder = reasoning_decoder(vocabulary(name)[0], reasoning, prompt)
    answer, thought = "", ""
    for i in ids:
        answer += decoder.push(i)
        thought += decoder.take_reasoning()
    answer += decoder.finish()
    return answer, thought + decoder.take_reasoning(), decoder.num_reasoning_tokens


def letters(tokenizer: Tokenizer, text: str) -> list[int]:
    """The text with each of its characters encoded apart, so that marks are split over tokens."""
    return [i for letter in text for i in tokenizer.encode(letter)]


@pytest.mark.parametrize("name", SHAPES)
def test_only_models_that_have_marks_reason(name: str) -> None:
    assert (form(name).reasoning is not None) == (name in THINKERS)


REPLIES = [
    ("<think>\nI see. 안녕\n</think>\n\nHello 🐱!", "I see. 안녕", "Hello 🐱!"),
    ("\n<think>\n\n</think>\n\nHello", "", "Hello"),
    ("<think>never closed", "never closed", ""),
    ("<think>almost </think", "almost </think", ""),
    ("<think>a < b </ c\n\n  d</think>x", "a < b </ c\n\n  d", "x"),
    ("No thought.", "", "No thought."),
    ("  <thin ice", "", "  <thin ice"),
    ("<thi", "", "<thi"),
    ("The mark <think> is text, and </think> too.", "", "The mark <think> is text, and </think> too."),
    ("<think>one</think>two <think>three</think>", "one", "two <think>three</think>"),
    ("", "", ""),
]


@pytest.mark.parametrize(("reply", "thought", "answer"), REPLIES)
def test_think_marks(reply: str, thought: str, answer: str) -> None:
    tokenizer = vocabulary("qwen-3")[0]
    for ids in (tokenizer.encode(reply), letters(tokenizer, reply)):
        assert split(ids, "qwen-3", [], found("qwen-3"))[:2] == (answer, thought)
    chatml = vocabulary("chatml")[0]  # without tokens for the marks
    assert split(chatml.encode(reply), "chatml", [], PLAIN)[:2] == (answer, thought)


def test_reasoning_tokens_are_counted() -> None:
    tokenizer = vocabulary("qwen-3")[0]
    thought, rest = tokenizer.encode("<think>\nI see.\n</think>"), tokenizer.encode("\n\nHello")
    assert split([*thought, *rest], "qwen-3", [], found("qwen-3"))[2] == len(thought)
    assert split(rest, "qwen-3", [], found("qwen-3"))[2] == 0


@pytest.mark.parametrize("thinking", [True, False])
def test_a_prompt_that_opens_the_reasoning(thinking: bool) -> None:
    tokenizer = vocabulary("deepseek-r1")[0]
    prompt = form("deepseek-r1").encode(dialog([("user", "why? <think>")]))
    assert tokenizer.decode(prompt).endswith("<think>\n")
    reply = tokenizer.encode("It is.\n</think>\n\nSo." if thinking else "It is.")
    answer, thought, count = split(reply, "deepseek-r1", prompt, found("deepseek-r1"))
    assert (answer, thought) == (("So.", "It is.") if thinking else ("", "It is."))
    assert count > 0


def test_a_prompt_that_has_closed_it() -> None:
    prompt = form("qwen-3").encode(dialog([("user", "why?")]))
    reply = vocabulary("qwen-3")[0].encode("So. </think> is text.")
    assert split(reply, "qwen-3", prompt, found("qwen-3")) == ("So. </think> is text.", "", 0)


def test_marks_that_are_control_tokens() -> None:
    tokenizer = vocabulary("chatml")[0]
    opening, closing = tokenizer.control("<|im_start|>"), tokenizer.control("<|im_end|>")
    marks = ReasoningFormat("<|im_start|>", "<|im_end|>", {opening: "<|im_start|>", closing: "<|im_end|>"})
    ids = [opening, *tokenizer.encode("I see <|im_x"), closing, *tokenizer.encode("Hello")]
    assert split(ids, "chatml", [], marks)[:2] == ("Hello", "I see <|im_x")


def test_channels() -> None:
    tokenizer = vocabulary("harmony")[0]

    def ids(*parts: str) -> list[int]:
        controls = tokenizer.controls
        return [i for part in parts for i in ([controls[part]] if part in controls else tokenizer.encode(part))]

    reply = ids("<|channel|>", "analysis", "<|message|>", "I see.", "<|end|>", "<|start|>", "assistant")
    final = ids("<|channel|>", "final", "<|message|>", "Hello ", "안녕")
    answer, thought, count = split([*reply, *final], "harmony", [], found("harmony"))
    assert (answer, thought) == ("Hello 안녕", "I see.")
    assert count >= len(reply)
    assert split(reply, "harmony", [], found("harmony"))[:2] == ("", "I see.")
    assert split(tokenizer.encode("Hi"), "harmony", [], found("harmony"))[0] == "Hi"
    assert tokenizer.control("<|end|>") not in form("harmony").stop_ids


@pytest.mark.parametrize("name", ["qwen-3", "deepseek-r1"])
def test_earlier_reasoning_is_not_sent_to_the_template(name: str) -> None:
    with_thought = dialog([("user", "a"), ("assistant", "<think>\nhm </ think\n</think>\n\nb"), ("user", "c")])
    without = dialog([("user", "a"), ("assistant", "b"), ("user", "c")])
    assert form(name).encode(with_thought) == form(name).encode(without) == theirs(name, without, enable_thinking=False)
    unclosed = dialog([("user", "a"), ("assistant", "<think>hm"), ("user", "c")])
    assert form(name).encode(unclosed) == form(name).encode(dialog([("user", "a"), ("assistant", ""), ("user", "c")]))


def test_other_models_read_the_mark_as_text() -> None:
    messages = dialog([("user", "a"), ("assistant", "<think>hm</think>b"), ("user", "c")])
    assert form("chatml").encode(messages) == theirs("chatml", messages)
    assert find_reasoning(source("chatml"), vocabulary("chatml")[0]) is None
