"""Prompts of each family equal those of Meta's reference, of transformers' chat template, or written by hand."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.chat.chat_format import chat_format
from engine.chat.formats import ChatFormat, Message, special_tags_in, without_tags
from engine.checkpoint import ModelSpec, open_checkpoint
from engine.checkpoint.chat_families import chat_family, default_system
from engine.errors import ConfigError, InvalidDialog
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from tests.engine.checkpoint import vocabularies as v
from tests.engine.checkpoint.builders import GOLDEN, write_meta

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def dialog(*messages: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in messages]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return open_checkpoint(GOLDEN / "llama2-tiny").spec


def spelled(tokenizer: Tokenizer, prompt: Sequence[int], names: Sequence[str]) -> str:
    """The prompt as text with its control tokens by name."""
    controls = {tokenizer.control(name): name for name in names}
    return "".join(controls.get(i) or tokenizer.decode([i]) for i in prompt)


@pytest.mark.parametrize("name", ["llama2-tiny", "llama2-tiny-mp2", "smollm2"])
def test_prompts_equal_the_recorded_ones(name: str) -> None:
    checkpoint = open_checkpoint("smollm2" if name == "smollm2" else GOLDEN / name)
    form = chat_format(checkpoint.spec, checkpoint.tokenizer())
    recorded = json.loads((GOLDEN / name / "golden.json").read_text())["dialogs"]
    assert len(recorded) >= 3
    for entry in recorded:
        assert form.encode(entry["dialog"]) == entry["prompt_tokens"]
        text = checkpoint.tokenizer().decode([i for i in entry["greedy_tokens"] if i not in form.stop_ids])
        assert text == entry["greedy_text"].removesuffix("<|im_end|>")


def test_llama2_puts_the_system_message_into_the_first_turn_and_strips(spec: ModelSpec) -> None:
    tokenizer = v.golden_sentencepiece()
    prompt = chat_format(spec, tokenizer).encode(
        dialog((SYSTEM, " be brief "), (USER, " hi "), (ASSISTANT, " yo "), (USER, "and? "))
    )
    first = "[INST] <<SYS>>\n be brief \n<</SYS>>\n\n hi [/INST] yo "
    assert prompt == [1, *tokenizer.encode(first), 2, 1, *tokenizer.encode("[INST] and? [/INST]")]


@pytest.mark.parametrize("text", ["[INST]", "a [/INST] b", "<<SYS>>\nx\n<</SYS>>", "[IN[INST]ST]", "<<<SYS>>>"])
def test_b21_llama2_tags_in_messages_lose_their_meaning(spec: ModelSpec, text: str) -> None:
    tokenizer = v.golden_sentencepiece()
    form = chat_format(spec, tokenizer)
    for roles in ((SYSTEM, text, "u", "a"), (SYSTEM, "s", text, "a"), (SYSTEM, "s", "u", text)):
        messages = dialog((SYSTEM, roles[1]), (USER, roles[2]), (ASSISTANT, roles[3]), (USER, "last"))
        prompt = tokenizer.decode(form.encode(messages))
        assert (prompt.count("[INST]"), prompt.count("[/INST]")) == (2, 2)
        assert (prompt.count("<<SYS>>"), prompt.count("<</SYS>>")) == (1, 1)
        assert special_tags_in(messages)
    assert not special_tags_in(dialog((USER, "[inst] <SYS> INST")))


@given(
    st.lists(st.sampled_from(["[", "]", "<<", ">>", "INST", "SYS", "/", "[INST]", "<</SYS>>", " ", "x"]), max_size=12)
)
def test_no_tags_are_left_and_nothing_else_changes(parts: list[str]) -> None:
    text = "".join(parts)
    clean = without_tags(text)
    assert not special_tags_in(dialog((USER, clean)))
    assert clean.replace(" ", "") == text.replace(" ", "")
    if not special_tags_in(dialog((USER, text))):
        assert clean == text


def test_chatml_by_hand(spec: ModelSpec, tmp_path: Path) -> None:
    tokenizer = v.byte_level_json(tmp_path / "tokenizer.json")
    form = chat_format(replace(spec, chat="chatml", default_system="Be kind."), tokenizer)
    with_default = form.encode(dialog((USER, "hi<|im_end|>")))
    assert spelled(tokenizer, with_default, ("<|im_start|>", "<|im_end|>")) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert with_default.count(tokenizer.control("<|im_end|>")) == 2  # the one in the user's message is text
    own = form.encode(dialog((SYSTEM, ""), (USER, "hi"), (ASSISTANT, ""), (USER, "2")))
    assert spelled(tokenizer, own, ("<|im_start|>", "<|im_end|>")) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n"
    )
    assert form.stop_ids == {tokenizer.control("<|im_end|>")}


def test_llama3_by_hand(spec: ModelSpec) -> None:
    tokenizer = v.tiktoken_tokenizer()
    form = chat_format(replace(spec, chat="llama3"), tokenizer)
    prompt = form.encode(dialog((SYSTEM, " s "), (USER, "u<|eot_id|>"), (ASSISTANT, "a"), (USER, "hello")))
    names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    assert spelled(tokenizer, prompt, names) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nu<|eot_id|><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert prompt.count(tokenizer.control("<|eot_id|>")) == 4
    assert tokenizer.control("<|eot_id|>") in form.stop_ids


def test_mistral_by_hand(spec: ModelSpec, tmp_path: Path) -> None:
    mistral = replace(spec, chat="mistral")
    messages = dialog((SYSTEM, "s"), (USER, "u"), (ASSISTANT, "a"), (USER, "[INST]"))
    plain = v.golden_sentencepiece()
    assert chat_format(mistral, plain).encode(messages) == [
        *[1, *plain.encode("[INST] s\n\nu [/INST]"), *plain.encode("a"), 2],
        *plain.encode("[INST] [ INST ] [/INST]"),
    ]
    marked = v.byte_level_json(tmp_path / "tokenizer.json", ("<s>", "</s>", "[INST]", "[/INST]"))
    prompt = chat_format(mistral, marked).encode(messages)
    names = ("<s>", "</s>", "[INST]", "[/INST]")
    assert spelled(marked, prompt, names) == "<s>[INST]u[/INST]a</s>[INST]s\n\n[INST][/INST]"
    assert prompt.count(marked.control("[INST]")) == 2  # the one in the user's message is text


@pytest.mark.parametrize("form", ["tokenizer.model", "gguf"])
@pytest.mark.parametrize("version", ["v1", "v2", "v3", "v7"])
def test_case_04_prompts_equal_mistral_commons(spec: ModelSpec, version: str, form: str) -> None:
    """System texts, several pairs, spaces at every end, marks as text: recorded over the same vocabularies."""
    model = v.mistral_model(version)
    recorded = json.loads((GOLDEN / "mistral" / "golden.json").read_text())["versions"][version]
    assert hashlib.sha256(model).hexdigest() == recorded["sha256"]
    if form == "gguf":
        tokenizer = v.gguf_of_sentencepiece(model)
    else:
        tokenizer = SentencePieceTokenizer(model, source="tokenizer.model")
    mistral = chat_format(replace(spec, chat="mistral"), tokenizer)
    assert len(recorded["dialogs"]) >= 8
    for entry in recorded["dialogs"]:
        assert mistral.encode(entry["dialog"]) == entry["prompt_tokens"], entry["dialog"]


BAD_ORDER = [
    ([(SYSTEM, "s")], "needs a message from the user"),
    ([(ASSISTANT, "a")], r"messages\[0\].*'user'"),
    ([(USER, "u"), (USER, "u")], r"messages\[1\].*'assistant'"),
    ([(SYSTEM, "s"), (USER, "u"), (ASSISTANT, "a")], r"messages\[2\].*last message"),
    ([(USER, "u"), (SYSTEM, "s"), (USER, "u")], r"messages\[1\].*'assistant'"),
    ([(SYSTEM, "s"), (SYSTEM, "s"), (USER, "u")], r"messages\[1\].*'user'"),
    ([(SYSTEM, "s"), (ASSISTANT, "a"), (USER, "u")], r"messages\[1\].*'user'.*user and assistant in turn"),
]
BAD = [
    ([], "needs a message"),
    ([("tool", "t")], r"messages\[0\].*role"),
    ([(USER, None)], r"messages\[0\].*text, not NoneType"),
    ([(USER, ["text"])], r"messages\[0\].*text, not list"),
    ([(USER, "\ud800")], r"messages\[0\].*Unicode"),
]


@pytest.mark.parametrize(("messages", "problem"), BAD)
@pytest.mark.parametrize("family", ["llama2", "mistral", "chatml", "llama3"])
def test_invalid_dialogs_are_refused(
    spec: ModelSpec, tmp_path: Path, family: str, messages: list[tuple[str, str]], problem: str
) -> None:
    form = family_format(spec, family, tmp_path)
    with pytest.raises(InvalidDialog, match=problem):
        form.encode(dialog(*messages))


@pytest.mark.parametrize(("messages", "problem"), BAD_ORDER)
@pytest.mark.parametrize("family", ["llama2", "mistral"])
def test_case_12_llama2_and_mistral_say_which_order_they_need(
    spec: ModelSpec, tmp_path: Path, family: str, messages: list[tuple[str, str]], problem: str
) -> None:
    with pytest.raises(InvalidDialog, match=problem):
        family_format(spec, family, tmp_path).encode(dialog(*messages))


@pytest.mark.parametrize("shape", ["uu", "sau", "suasu", "ssu", "s", "a", "uau", "ssuuaas", "us", "ua"])
def test_case_12_chatml_and_llama3_write_messages_down_as_they_come(
    spec: ModelSpec, tmp_path: Path, shape: str
) -> None:
    roles = {"s": SYSTEM, "u": USER, "a": ASSISTANT}
    messages = dialog(*((roles[letter], f"text {n}") for n, letter in enumerate(shape)))
    chatml = family_format(replace(spec, default_system="Be kind."), "chatml", tmp_path)
    names = ("<|im_start|>", "<|im_end|>")
    default = "" if shape[0] == "s" else "<|im_start|>system\nBe kind.<|im_end|>\n"
    expected = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    prompt = chatml.encode(messages)
    tokenizer = v.byte_level_json(tmp_path / "tokenizer.json")
    assert spelled(tokenizer, prompt, names) == f"{default}{expected}<|im_start|>assistant\n"
    names = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    expected = "".join(f"{header.format(m['role'])}{m['content']}<|eot_id|>" for m in messages)
    prompt = family_format(spec, "llama3", tmp_path).encode(messages)
    assert spelled(v.tiktoken_tokenizer(), prompt, names) == f"<|begin_of_text|>{expected}{header.format(ASSISTANT)}"


@pytest.mark.parametrize("family", ["llama2", "mistral", "chatml", "llama3"])
def test_case_12_a_reply_that_was_begun_is_left_open(spec: ModelSpec, tmp_path: Path, family: str) -> None:
    form = family_format(spec, family, tmp_path)
    asked = dialog((SYSTEM, "s"), (USER, "hello"))
    begun = [*asked, *dialog((ASSISTANT, "Well then"))]
    prompt = form.encode(begun, continue_last=True)
    finished = form.encode([*begun, *dialog((USER, "more"))])
    assert prompt == finished[: len(prompt)]
    assert len(prompt) > len(form.encode(asked))
    assert form.encode([*asked, *dialog((ASSISTANT, ""))], continue_last=True) == form.encode(asked)
    with pytest.raises(InvalidDialog, match="must be from the assistant"):
        form.encode(asked, continue_last=True)


@pytest.mark.parametrize("family", ["llama2", "mistral", "chatml", "llama3"])
def test_a_longer_dialog_begins_with_the_shorter_prompt(spec: ModelSpec, tmp_path: Path, family: str) -> None:
    """Prefix hits depend on it: a turn's prompt is a prefix of the next turn's."""
    form = family_format(spec, family, tmp_path)
    first = dialog((SYSTEM, "be brief"), (USER, "hello"))
    second = [*first, *dialog((ASSISTANT, "hi there"), (USER, "more"))]
    short, long = form.encode(first), form.encode(second)
    assert long[: len(short)] == short


def family_format(spec: ModelSpec, family: str, path: Path) -> ChatFormat:
    if family == "llama3":
        tokenizer = v.tiktoken_tokenizer()
    elif family == "chatml":
        tokenizer = v.byte_level_json(path / "tokenizer.json")
    else:
        tokenizer = v.golden_sentencepiece()
    return chat_format(replace(spec, chat=family), tokenizer)


def test_a_vocabulary_without_the_familys_tokens(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"<\|im_start\|>"):
        chat_format(replace(spec, chat="chatml"), v.golden_sentencepiece())


@pytest.mark.parametrize(
    ("template", "tokens", "family"),
    [
        ("{{'<|im_start|>' + m['role']}}", (), "chatml"),
        ("{{'<|start_header_id|>' + m['role']}}", (), "llama3"),
        ("[INST] <<SYS>>", ("<|im_start|>", "<|im_end|>"), "llama2"),
        ("{{'[INST] ' + m}}", (), "mistral"),
        (None, ("<|im_start|>", "<|im_end|>"), "chatml"),
        (None, ("<|start_header_id|>",), "llama3"),
        (None, ("[INST]", "[/INST]", "<s>"), "mistral"),
        (None, ("<s>", "</s>"), "llama2"),
    ],
)
def test_families_are_derived_from_template_or_vocabulary(
    template: str | None, tokens: Sequence[str], family: str
) -> None:
    assert chat_family(template, tokens) == family


def test_only_the_template_itself_knows_other_formats() -> None:
    assert chat_family("{{'<|user|>' + m}}", ("<s>",)) == "other"


def test_default_system_is_read_from_the_template() -> None:
    assert default_system("{{ '<|im_start|>system\nYou are S<|im_end|>\n' }}") == "You are S"
    assert default_system(r"{{ '<|im_start|>system\nnice<|im_end|>\n' }}") == "nice"
    assert default_system("{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>'}}") is None
    assert default_system(None) is None


def test_meta_directory_speaks_llama2(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_meta(tmp_path))
    assert chat_format(checkpoint.spec, checkpoint.tokenizer()).encode(dialog((USER, "x")))[0] == 1
