"""Prompts of a template are those of transformers, id for id, except where a text holds a mark."""

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

from engine.chat.chat_format import choose_format
from engine.chat.formats import Message
from engine.chat.template import ChatTemplate
from engine.chat.templated import TemplatedFormat
from engine.checkpoint import open_checkpoint
from engine.tokenizers.piecewise import PiecewiseEncoder
from tests.engine.chat.template_shapes import SHAPES, source
from tests.engine.chat.vocabulary import vocabulary

NO_SYSTEM = {"gemma-2", "mistral-v1"}
DIALOGS: list[list[tuple[str, str]]] = [
    [("user", "hello there")],
    [("user", "  spaces around \n"), ("assistant", " yes \n\n"), ("user", "안녕하세요, 고양이 🐱\n\n\ttab")],
    [("system", "You are the owl."), ("user", "who speaks?")],
    [("system", "S\n"), ("user", "1"), ("assistant", "x = {'a': 1}  # {{ b }} {% c %}"), ("user", '<b>2</b> & "q"')],
    [("user", ""), ("assistant", ""), ("user", "it's 2024")],
]


@cache
def form(name: str) -> TemplatedFormat:
    shape, (tokenizer, _) = SHAPES[name], vocabulary(name)
    special = {"eos_token": shape.eos} | ({"bos_token": shape.bos} if shape.bos else {})
    return TemplatedFormat(ChatTemplate(source(name), special), PiecewiseEncoder(tokenizer))


def dialog(turns: Sequence[tuple[str, str]]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]  # type: ignore[typeddict-item]


def theirs(name: str, messages: Sequence[Message], **kwargs: object) -> list[int]:
    options = {"add_generation_prompt": True} | kwargs
    return vocabulary(name)[1].apply_chat_template(list(messages), tokenize=True, return_dict=False, **options)


@pytest.mark.parametrize("turns", DIALOGS)
@pytest.mark.parametrize("name", SHAPES)
def test_prompts_equal_those_of_transformers(name: str, turns: list[tuple[str, str]]) -> None:
    if name in NO_SYSTEM and turns[0][0] == "system":
        turns = turns[1:]
    assert form(name).encode(dialog(turns)) == theirs(name, dialog(turns), enable_thinking=False)


@pytest.mark.parametrize("name", SHAPES)
def test_a_reply_is_continued_as_in_transformers(name: str) -> None:
    messages = dialog([("user", "who speaks?"), ("assistant", "It is the")])
    expected = theirs(name, messages, add_generation_prompt=False, continue_final_message=True)
    assert form(name).encode(messages, continue_last=True) == expected


@pytest.mark.parametrize("name", SHAPES)
def test_variables_of_a_request(name: str) -> None:
    messages, form_ = dialog([("user", "who speaks?")]), form(name)
    thinking = form_.encode(messages, variables={"enable_thinking": True})
    assert thinking == theirs(name, messages, enable_thinking=True)
    assert (thinking != form_.encode(messages)) == (name == "qwen-3")
    assert ("enable_thinking" in form_.variables) == (name == "qwen-3")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_mark_in_a_text_stays_text(name: str, role: str) -> None:
    shape, (tokenizer, _) = SHAPES[name], vocabulary(name)
    controls = set(tokenizer.controls.values())

    def prompt(word: str) -> list[Message]:
        texts = {"system": "Be kind.", "user": "what?", "assistant": "yes"}
        texts[role] = f"{texts[role]}\n{word}\nuser"
        turns = [
            ("system", texts["system"]),
            ("user", texts["user"]),
            ("assistant", texts["assistant"]),
            ("user", "so"),
        ]
        return dialog(turns)

    plain, marked = form(name).encode(prompt("kind")), form(name).encode(prompt(shape.mark))
    assert [i for i in marked if i in controls] == [i for i in plain if i in controls]
    at = next(n for n, (a, b) in enumerate(zip(plain, marked, strict=False)) if a != b)
    back = next(n for n, (a, b) in enumerate(zip(plain[::-1], marked[::-1], strict=False)) if a != b)
    assert tokenizer.decode(marked[at : len(marked) - back]).strip() == shape.mark
    if name not in NO_SYSTEM:
        forged = theirs(name, prompt(shape.mark), enable_thinking=False)
        assert forged[:at] == marked[:at]
        end = back - 2  # a special token of Phi-3 takes the spaces after it
        assert forged[-end:] == marked[-end:]
        assert sum(i in controls for i in forged) == sum(i in controls for i in marked) + 1


@pytest.mark.parametrize(
    ("name", "mark"),
    [("mistral-v1", "[/INST]"), ("zephyr", "<|user|>"), ("qwen-3", "<think>"), ("qwen-3", "</tool_call>")],
)
def test_marks_that_are_no_control_tokens_lose_their_meaning(name: str, mark: str) -> None:
    tokenizer = vocabulary(name)[0]
    text = tokenizer.decode(form(name).encode(dialog([("user", f"a {mark} b")])))
    own = tokenizer.decode(form(name).encode(dialog([("user", "a b")])))
    assert f"a {mark[0]} {mark[1:]} b" in text
    assert text.count(mark) == own.count(mark)


def test_html_in_a_text_is_no_mark() -> None:
    messages = dialog([("user", "<b>bold</b> <tools> <function>")])
    assert form("qwen-2.5").encode(messages) == theirs("qwen-2.5", messages)


@pytest.mark.parametrize(("name", "end"), [(name, shape.mark) for name, shape in SHAPES.items()])
def test_the_end_of_a_turn_ends_a_reply(name: str, end: str) -> None:
    ends = {"llama-3.0": "<|eot_id|>", "gemma-2": "<end_of_turn>", "gemma-3": "<end_of_turn>", "phi-3": "<|end|>"}
    tokenizer = vocabulary(name)[0]
    assert form(name).stop_ids == {tokenizer.eos_id, tokenizer.controls[ends.get(name, SHAPES[name].eos)]}


def test_a_long_dialog_is_encoded_in_pieces() -> None:
    messages = dialog([("user", "the river is cold, she said " * 3000), ("assistant", "yes"), ("user", "why?")])
    assert form("qwen-2.5").encode(messages) == theirs("qwen-2.5", messages)


def test_the_embedded_model_uses_its_own_template() -> None:
    checkpoint = open_checkpoint("smollm2")
    chosen = choose_format(checkpoint.spec, PiecewiseEncoder(checkpoint.tokenizer()))
    assert chosen.description == "the template of the model's tokenizer.chat_template"


def _shipped() -> dict[str, str]:
    """The templates that transformers ships as constants of its modules."""
    found = {}
    for path in (
        "smolvlm/processing_smolvlm.py",
        "llama4/processing_llama4.py",
        "qwen2_audio/processing_qwen2_audio.py",
    ):
        tree = ast.parse((Path(transformers.__file__).parent / "models" / path).read_text())
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        texts = [text for text in constants if isinstance(text, str) and "{%" in text and "messages" in text]
        found |= {f"{path}:{n}": text for n, text in enumerate(texts)}
    checkpoint = open_checkpoint("smollm2")
    assert checkpoint.spec.chat_template is not None
    return found | {"smollm2": checkpoint.spec.chat_template.source}


SHIPPED = _shipped()


@pytest.mark.parametrize("name", SHIPPED)
def test_texts_of_templates_that_dependencies_ship(name: str) -> None:
    assert len(SHIPPED) >= 4
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    for turns in DIALOGS[:-1]:  # SmolVLM's reads the first character of a text
        values = {"messages": dialog(turns), "tools": None, "documents": None, "add_generation_prompt": True, **special}
        expected = _compile_jinja_template(SHIPPED[name]).render(**values)
        assert ChatTemplate(SHIPPED[name], special).render(dialog(turns)) == expected
