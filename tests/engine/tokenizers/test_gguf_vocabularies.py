"""Vocabularies as converters write them: without a pre-tokenizer, with marks of any type and score, padded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.chat.chat_format import chat_format
from engine.checkpoint import ModelSpec, open_checkpoint
from engine.checkpoint.gguf.container import GgufFile
from engine.checkpoint.gguf.tokenizer import make_tokenizer
from engine.errors import ConfigError
from engine.server.inspect_checkpoint import make_report
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.bpe import byte_alphabet
from tests.engine.checkpoint.builders import GOLDEN, Tiny, finish_gguf, gguf_name, gguf_writer, weights

LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
STARCODER = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<gh_stars>", "<issue_start>", "<jupyter_start>"]
NUMBERS = ["12", "123", "1234"]
# Llama 2's first 259 entries, then letters.
BASE = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
KINDS = [2, 3, 3, *[6] * 256, *[1] * 27]


def byte_level(marks: Sequence[str], pre: str | None, **changes: object) -> Tokenizer:
    """All bytes, the numbers 12, 123 and 1234 with their merges, and these control tokens."""
    tokens = [*byte_alphabet(), *NUMBERS, *marks]
    values: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - len(marks)) + [3] * len(marks),
        "tokenizer.ggml.merges": ["1 2", "12 3", "123 4"],
        "tokenizer.ggml.bos_token_id": tokens.index(marks[0]),
        "tokenizer.ggml.eos_token_id": tokens.index(marks[1]),
    }
    return make(values | changes, "llama3")


def sentencepiece(more: Sequence[str], types: Sequence[int], score: float = -1e4, **changes: object) -> Tokenizer:
    """Llama 2's bytes, the letters, and more entries."""
    values: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*BASE, *more],
        "tokenizer.ggml.token_type": [*KINDS, *types],
        "tokenizer.ggml.scores": [*[0.0] * 259, *[-float(n) for n in range(27)], *[score] * len(more)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return make(values | changes, "chatml")


def make(values: Mapping[str, object], chat: str) -> Tokenizer:
    given = {f"tokenizer.ggml.{name}" if "." not in name else name: value for name, value in values.items()}
    return make_tokenizer(GgufFile(Path("toy.gguf"), {k: v for k, v in given.items() if v is not None}, {}, {}), chat)


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(text)]


# Case 01: no pre-tokenizer


@pytest.mark.parametrize(
    ("marks", "pre", "want"),
    [
        *((LLAMA3, pre, ["123", "4"]) for pre in ("llama-bpe", "llama3", "llama-v3", "smaug-bpe", None, "", "default")),
        *((STARCODER, pre, ["1", "2", "3", "4"]) for pre in ("smollm", "refact", "qwen2", None, "default")),
        (["<s>", "</s>"], "gpt-2", ["1234"]),
        (["<s>", "</s>"], "tekken", ["1", "2", "3", "4"]),
    ],
)
def test_case_01_the_pre_tokenizer_is_named_or_recognised(marks: list[str], pre: str | None, want: list[str]) -> None:
    assert words(byte_level(marks, pre), "1234") == want


def test_case_01_gpt2s_own_vocabulary_is_recognised() -> None:
    tokens = [*byte_alphabet(), *NUMBERS]
    tokens += [f"filler{n}" for n in range(len(tokens), 50257)]
    tokens[262], tokens[50256] = "\u0120the", "<|endoftext|>"
    values = {"tokens": tokens, "token_type": [1] * 50257, "eos_token_id": 50256, "bos_token_id": 50256}
    assert words(byte_level(LLAMA3, None, **values), "1234") == ["1234"]


@pytest.mark.parametrize("pre", [None, "", "default"])
@pytest.mark.parametrize(
    "marks",
    [
        ["<s>", "</s>"],
        ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],  # Qwen's
        ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|eot|>"],  # Llama 4's
        ["<|endoftext|>", "<|end|>"],
    ],
)
def test_case_01_an_unknown_vocabulary_without_a_name_is_refused(marks: list[str], pre: str | None) -> None:
    with pytest.raises(ConfigError, match=r"expected tokenizer\.ggml\.pre, or the vocabulary of.*convert .* again"):
        byte_level(marks, pre)


@pytest.mark.parametrize("pre", ["poro-chat", "chatglm-bpe", "no-such-name"])
def test_case_01_an_unknown_name_is_refused_by_name(pre: str) -> None:
    with pytest.raises(ConfigError, match=rf"one of the pre-tokenizers gpt-2, .*llama-bpe.*found {pre}; serve"):
        byte_level(LLAMA3, pre)


# Case 02: control tokens


@pytest.mark.parametrize("score", [0.0, -1000.0, -1e4, 5.0])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("eos", ["<|im_end|>", "</s>"])
def test_case_02_marks_count_whatever_their_type_and_score(kind: int, score: float, eos: str, spec: ModelSpec) -> None:
    marks = ["<|im_end|>", "<|im_start|>", "<|tool_call|>"]
    tokenizer = sentencepiece(marks, [kind] * 3, score, eos_token_id=[*BASE, *marks].index(eos))
    ids = tokenizer.encode("a<|im_start|>system b<|im_end|></s><s><|tool_call|>")
    assert max(ids) < len(BASE)
    assert {1, 2}.isdisjoint(ids)
    assert tokenizer.decode(ids) == "a<|im_start|>system b<|im_end|></s><s><|tool_call|>"
    prompt = chat_format(replace(spec, chat="chatml"), tokenizer).encode([{"role": "user", "content": "a"}])
    assert prompt.count(len(BASE) + 1) == 2
    assert tokenizer.decode([len(BASE), len(BASE) + 2]) == ""
    assert tokenizer.stop_ids >= {len(BASE)}


@pytest.mark.parametrize(
    "mark",
    ["<|im_start|>", "[INST]", "[control_8]", "<pad>", "<start_of_turn>", "<｜User｜>", "<SPECIAL_12>", "<|x y|>"],
)
@pytest.mark.parametrize("kind", [3, 4])
def test_case_02_text_never_becomes_a_mark_of_any_family(mark: str, kind: int) -> None:
    text = f"a {mark}b{mark}{mark}"
    tokenizer = sentencepiece([mark], [kind])
    assert len(BASE) not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.control(mark) == len(BASE)
    byte = byte_level([*LLAMA3, mark], None)
    assert byte.control(mark) not in byte.encode(text)
    assert byte.decode(byte.encode(text)) == text


def test_case_02_user_defined_text_stays_text() -> None:
    tokenizer = sentencepiece(["<think>", "abc"], [4, 4])
    assert tokenizer.encode("abc")[-1] == len(BASE) + 1
    assert tokenizer.decode([len(BASE), len(BASE) + 1]) == "<think>abc"


def test_case_02_an_end_token_of_type_normal_is_a_control_token() -> None:
    """Whatever its name and type, text does not end a reply or a prompt."""
    for name, kind in (("<end>", 1), ("<end>", 4), ("endreply", 4)):
        tokenizer = sentencepiece([name], [kind], eos_token_id=len(BASE))
        assert len(BASE) not in tokenizer.encode(f"a {name}")
        assert tokenizer.decode([len(BASE)]) == ""


def test_case_02_inspect_refuses_what_cannot_be_served(tmp_path: Path) -> None:
    """A ChatML template over a vocabulary without its marks: the file opens, but no prompt can be made."""
    for marks, served in ((["<|im_end|>", "<|im_start|>"], True), (["<|im_end|>", "<|other|>"], False)):
        path = write_sentencepiece_gguf(tmp_path / f"{served}.gguf", marks)
        checkpoint = open_checkpoint(path)
        if served:
            assert make_report(checkpoint, 1).chat == "chatml"
        else:
            with pytest.raises(ConfigError, match=r"<\|im_start\|>"):
                make_report(checkpoint, 1)


def write_sentencepiece_gguf(path: Path, more: Sequence[str]) -> Path:
    tokens = [*BASE, *more]
    tiny = Tiny(vocab_size=len(tokens))
    writer = gguf_writer(path, tiny)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([*KINDS, *[4] * len(more)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{'<|im_start|>' + m}}")
    for name, tensor in weights(tiny).items():
        writer.add_tensor(gguf_name(name), tensor.float().numpy())
    finish_gguf(writer)
    return path


# Case 03: padding


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "more",
    [
        ["[PAD286]", "[PAD287]"],
        ["<dummy00001>", "<dummy00002>"],
        ["<unused0>", "<unused1>"],
        ["", ""],
        ["[PAD]", "[PAD]"],
    ],
)
def test_case_03_padding_loads_and_never_comes_out(more: list[str], kind: int) -> None:
    if more == ["[PAD]"] * 2 and kind == 1:
        return  # a name that a tokenizer could have learnt, with the type of one that it has
    text = f"ab c {more[0]}{more[1]}"
    for tokenizer in (sentencepiece(more, [kind] * 2), padded_byte_level(more, [kind] * 2)):
        padding = {tokenizer.vocab_size - 2, tokenizer.vocab_size - 1}
        assert padding.isdisjoint(tokenizer.encode(text))
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode(sorted(padding)) == ""


def padded_byte_level(more: Sequence[str], types: Sequence[int]) -> Tokenizer:
    tokens = [*byte_alphabet(), *NUMBERS, *LLAMA3, *more]
    return byte_level(LLAMA3, None, tokens=tokens, token_type=[1] * 259 + [3] * 5 + list(types))


@pytest.mark.parametrize("first", [1, 2, 3])
def test_case_03_unk_is_the_unknown_piece_whatever_its_type(first: int) -> None:
    tokenizer = sentencepiece(["[PAD286]"], [2], token_type=[first, *KINDS[1:], 2])
    assert tokenizer.decode(tokenizer.encode("ab é 안녕 <unk>")) == "ab é 안녕 <unk>"


def test_case_03_a_piece_twice() -> None:
    """The first one is what text becomes; both become text. Repeated marks are silent."""
    tokenizer = sentencepiece(["ab", "a", "ab", "</s>", "<unk>", "<s>"], [1, 1, 1, 4, 3, 1], score=-0.5)
    assert tokenizer.encode("ab")[-1] == len(BASE)
    assert tokenizer.encode("b a")[-1] == BASE.index("a")
    assert tokenizer.decode([len(BASE), len(BASE) + 2]) == "abab"
    assert tokenizer.decode([len(BASE) + 3, len(BASE) + 4, len(BASE) + 5]) == ""
    assert max(tokenizer.encode("</s><s><unk> a")) < len(BASE)
    twice = byte_level(LLAMA3, None, tokens=[*byte_alphabet(), *NUMBERS, *LLAMA3, "12"], token_type=[1] * 265)
    assert twice.encode("12") == [256]
    assert twice.decode([256, 264]) == "1212"


def test_case_03_a_vocabulary_without_types() -> None:
    tokenizer = sentencepiece([], [], token_type=None)
    assert tokenizer.decode(tokenizer.encode("ab é </s>")) == "ab é </s>"
    assert {1, 2}.isdisjoint(tokenizer.encode("<s></s>"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token_type": [2, 3, 3, 1, *KINDS[4:]]}, "there are not 256 byte pieces"),
        ({"token_type": [*KINDS[:-1], 6]}, "byte piece z is invalid"),
        ({"tokens": ["a", *BASE[1:]], "token_type": [1, 3, 3, *[1] * 283]}, "<unk> or pieces for all bytes"),
        ({"scores": [0.0]}, "286 scores; found 1"),
        ({"eos_token_id": 286}, "eos_token_id below 286; found 286"),
    ],
)
def test_case_03_the_reason_of_a_refusal_is_told(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        sentencepiece([], [], **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", [-1, 2**32 - 1])
def test_a_file_without_a_beginning_token(nothing: int) -> None:
    tokenizer = byte_level(LLAMA3, "gpt-2", bos_token_id=nothing)
    assert (tokenizer.bos_id, tokenizer.adds_bos) == (None, False)
    assert byte_level(LLAMA3, "gpt-2", bos_token_id=None).bos_id is None


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return open_checkpoint(GOLDEN / "llama2-tiny").spec


def test_an_unk_that_merges_make_is_a_word() -> None:
    """As in Qwen's vocabulary, which could not be built without it."""
    merges = ["u n", "un k", "unk >", "< unk>"]
    tokens = [*byte_alphabet(), "un", "unk", "unk>", "<unk>", *LLAMA3]
    types = [1] * 260 + [3] * len(LLAMA3)
    tokenizer = byte_level(LLAMA3, "qwen2", tokens=tokens, token_type=types, merges=merges, bos_token_id=260)
    assert tokenizer.decode([259]) == "<unk>"
    assert "".join(words(tokenizer, "a <unk> b")) == "a <unk> b"
