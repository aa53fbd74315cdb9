"""GGUF files as other converters and damaged disks write them: loaded right, or refused in one line at once."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.checkpoint import open_checkpoint
from engine.errors import ConfigError
from tests.engine.checkpoint.builders import Tiny, gguf_name, weights

Entry = tuple[int, bytes]  # GGUF's number of a type, and the value's bytes
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
KINDS = [2, 3, 3, *[6] * 256, *[1] * 27]
TINY = Tiny(dim=32, n_layers=1, n_heads=4, n_kv_heads=2, ffn_dim=64, vocab_size=len(PIECES))


def u32(number: int) -> Entry:
    return 4, struct.pack("<I", number)


def u64(number: int) -> Entry:
    return 10, struct.pack("<Q", number)


def f32(number: float) -> Entry:
    return 6, struct.pack("<f", number)


def text(value: str | bytes) -> Entry:
    raw = value.encode() if isinstance(value, str) else value
    return 8, struct.pack("<Q", len(raw)) + raw


def array(kind: int, values: Sequence[object]) -> Entry:
    code = {0: "B", 5: "i", 6: "f", 12: "d"}.get(kind)
    body = struct.pack(f"<{len(values)}{code}", *values) if code else b"".join(text(str(value))[1] for value in values)
    return 9, struct.pack("<IQ", kind, len(values)) + body


def metadata(**changes: Entry | None) -> dict[str, Entry]:
    """Of a Llama with a SentencePiece vocabulary; `changes` by key, with `__` for a dot."""
    values: dict[str, Entry | None] = {
        "general.architecture": text("llama"),
        "llama.block_count": u32(TINY.n_layers),
        "llama.context_length": u32(128),
        "llama.embedding_length": u32(TINY.dim),
        "llama.feed_forward_length": u32(TINY.ffn_dim),
        "llama.attention.head_count": u32(TINY.n_heads),
        "llama.attention.head_count_kv": u32(TINY.n_kv_heads),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.tokens": array(8, PIECES),
        "tokenizer.ggml.scores": array(6, [0.0] * len(PIECES)),
        "tokenizer.ggml.token_type": array(5, KINDS),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in values.items() if value is not None}


def yarn(**changes: Entry) -> dict[str, Entry | None]:
    """RoPE scaled by YaRN; `changes` by key below `llama.rope`."""
    values = {"scaling__type": text("yarn"), "scaling__factor": f32(4.0), **changes}
    return {f"llama__rope__{name}": value for name, value in values.items()}


def tensors() -> dict[str, np.ndarray]:
    return {gguf_name(name): tensor.float().numpy() for name, tensor in weights(TINY).items()}


def write(
    path: Path,
    values: Mapping[str, Entry] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    version: int = 3,
    align: int = 32,
    backwards: bool = False,
    offsets: Mapping[str, int] | None = None,
    more: bytes = b"",
    num_more: int = 0,
) -> Path:
    """By hand, so that anything can be wrong. `more`: further entries of the table of tensors."""
    values, arrays = metadata() if values is None else values, tensors() if arrays is None else arrays
    place, data = {}, b""
    for name in reversed(arrays) if backwards else arrays:
        place[name] = len(data)
        data += arrays[name].tobytes()
        data += bytes(-len(data) % align)
    place |= offsets or {}
    out = b"GGUF" + struct.pack("<IQQ", version, len(arrays) + num_more, len(values))
    out += b"".join(text(name)[1] + struct.pack("<I", kind) + value for name, (kind, value) in values.items())
    for name, values_of in arrays.items():
        shape = values_of.shape[::-1]
        out += text(name)[1] + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, place[name])
    out += more
    path.write_bytes(out + bytes(-len(out) % align) + data)
    return path


def refuse(path: Path, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({}, {"version": 2}),
        ({}, {"backwards": True}),
        *(({"general__alignment": u32(align)}, {"align": align}) for align in (1, 8, 48, 4096)),
        ({"tokenizer__ggml__token_type": array(5, [2, 3, 3, *[6] * 256, *[0] * 27])}, {}),  # "undefined"
        ({"tokenizer__ggml__token_type": array(5, [2, 3, 3, *[6] * 256, *[-1] * 27])}, {}),
        ({"tokenizer__ggml__token_type": None}, {}),
        ({"general__description": text(b"caf\xe9")}, {}),
        ({"general__tags": array(8, [])}, {}),
        ({"split__count": u32(1)}, {}),
        ({"llama__rope__scaling__type": text("linear"), "llama__rope__scaling__factor": f32(1.0)}, {}),
        ({"llama__rope__scaling__type": text("none"), "llama__rope__scaling__factor": f32(4.0)}, {}),
        ({"llama__rope__scale_linear": f32(0.0)}, {}),
        ({"llama__logit_scale": f32(1.0)}, {}),
    ],
)
def test_attack_gguf_of_other_converters_loads(
    tmp_path: Path, changes: dict[str, Entry | None], options: dict[str, object]
) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", metadata(**changes), **options))
    plain = open_checkpoint(write(tmp_path / "plain.gguf"))
    assert checkpoint.spec == plain.spec
    assert checkpoint.tokenizer().encode("abc é") == plain.tokenizer().encode("abc é")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"llama__block_count": u32(2**32 - 1)}, "block_count to be at most 4096"),
        ({"llama__block_count": u32(4096)}, "tensors of 4096 layers; found 12 tensors"),
        ({"llama__block_count": u64(2**63)}, "block_count to be at most"),
        ({"llama__context_length": u32(2**32 - 1)}, "context_length to be at most 4194304"),
        ({"general__alignment": (7, b"\1")}, "positive general.alignment; found True"),
        ({"tokenizer__ggml__scores": array(6, [float("nan")] * len(PIECES))}, "finite scores.*found nan"),
        ({"tokenizer__ggml__scores": array(12, [1e300] * len(PIECES))}, "finite scores"),
        ({"tokenizer__ggml__token_type": array(5, [1] * 5)}, "286 token types; found 5"),
        ({"llama__rope__scaling__factor": f32(-4.0)}, "factor to be a positive number"),
        ({"llama__rope__scaling__type": text("x"), "llama__rope__scaling__factor": f32(2.0)}, "found scaling x"),
        (yarn(scaling__factor=(12, struct.pack("<d", 1e307))), "a context of at most 4194304; found "),
        (yarn(freq_base=f32(1.0)), "a rope_theta above 1"),
        (yarn(scaling__yarn_beta_fast=f32(1e38)), "beta_slow below beta_fast, at most 1e"),
        (yarn(scaling__yarn_beta_slow=(12, struct.pack("<d", 1e-320))), "beta_slow below beta_fast"),
        (yarn(scaling__attn_factor=f32(1e35)), "an attention factor of at most"),
        ({"llama__attention__scale": f32(-0.5)}, "attention.scale to be a positive number"),
        ({"llama__final_logit_softcapping": f32(30.0)}, "final_logit_softcapping to be absent"),
        ({"llama__logit_scale": f32(0.25)}, "logit_scale to be absent"),
        ({"x": (9, struct.pack("<IQ", 9, 1) + array(5, [1])[1])}, "arrays of numbers or texts; found one of type 9"),
        ({"x": (99, b"")}, "GGUF's types; found one of type 99"),
        ({"split__count": u32(2)}, "the name of a part, such as m-00001-of-00002.gguf"),
        ({"general__architecture": None, "split__count": u32(2)}, "the name of a part"),
    ],
)
def test_attack_gguf_metadata_that_a_llama_cannot_have(
    tmp_path: Path, changes: dict[str, Entry | None], problem: str
) -> None:
    refuse(write(tmp_path / "m.gguf", metadata(**changes)), problem)


def test_attack_gguf_vocabulary_of_two_million(tmp_path: Path) -> None:
    """It is compared with the embeddings before a tokenizer is built; the file is one of 24 MB."""
    tokens = 9, struct.pack("<IQ", 8, 2_000_000) + text("word")[1] * 2_000_000
    refuse(
        write(tmp_path / "m.gguf", metadata(tokenizer__ggml__tokens=tokens)),
        "a vocabulary of 286, as the weights have; found one of 2000000",
    )


def test_attack_gguf_tokens_that_are_not_utf8(tmp_path: Path) -> None:
    kind, raw = array(8, PIECES)
    raw = raw[:-1] + b"\xff"
    refuse(
        write(tmp_path / "m.gguf", metadata(tokenizer__ggml__tokens=(kind, raw))), "tokens in UTF-8; found byte 0xff"
    )


def test_attack_gguf_tables_of_tensors_that_contradict_themselves(tmp_path: Path) -> None:
    path, arrays = tmp_path / "m.gguf", tensors()
    twice = text("output.weight")[1] + struct.pack("<IQQIQ", 2, TINY.dim, TINY.vocab_size, 0, 0)
    refuse(write(path, more=twice, num_more=1), "each tensor once; found 'output.weight' twice")
    refuse(write(path, offsets={"blk.0.ffn_up.weight": 0}), "one after the other; found .*within")
    refuse(write(path, more=text("x")[1] + struct.pack("<I", 2**32 - 1), num_more=1), "at most 4 dimensions")
    refuse(write(path, arrays=arrays | {"tok_embeddings.weight": arrays["token_embd.weight"]}), "besides")
    refuse(write(path, arrays=arrays | {"rope_freqs.weight": np.ones(400, np.float32)}), "4 numbers in F32")
    refuse(write(path, arrays=arrays | {"rope_freqs.weight": np.zeros(4, np.float32)}), "another table")
    key = text("llama.context_length")[1] + struct.pack("<I", 4) + u32(64)[1]
    content = write(path).read_bytes()
    head = content[:16] + struct.pack("<Q", len(metadata()) + 1) + key
    path.write_bytes(head + content[24:])
    refuse(path, "each key once; found 'llama.context_length' twice")


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<QQ", 0, 2**62),
        struct.pack("<QQ", 2**62, 0),
        struct.pack("<QQ", 0, 1) + text("k")[1] + struct.pack("<IIQ", 9, 0, 8 << 30),  # 8 Gi numbers
        struct.pack("<QQ", 0, 1) + text("k")[1] + struct.pack("<IIQ", 9, 8, 1 << 30),  # texts
        struct.pack("<QQ", 0, 1) + text("k")[1] + struct.pack("<IQ", 8, 8 << 30),
        struct.pack("<QQ", 1, 0) + text("k")[1] + struct.pack("<I", 2**32 - 1),
    ],
)
def test_attack_gguf_hostile_counts_in_a_large_file_end_at_once(tmp_path: Path, head: bytes) -> None:
    """The file is 30 GiB of zeros on paper, so that every count is within it."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + head)
    with path.open("r+b") as file:
        file.truncate(30 << 30)
    refuse(path, "a header of at most|once|dimensions")


def test_attack_gguf_truncated_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    content = path.read_bytes()
    end = len(content) - 64  # padding may follow the last tensor
    for length in [*range(4, 400, 7), *range(400, end, end // 100)]:
        path.write_bytes(content[:length])
        refuse(path, ".")
