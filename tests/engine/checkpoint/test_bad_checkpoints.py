"""Damaged and mismatched checkpoints: a one-line error with file, expected and found; nothing in them is executed."""

import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.errors import ConfigError
from tests.engine.checkpoint.builders import (
    Tiny,
    params,
    tiktoken_vocabulary,
    weights,
    write_gguf,
    write_huggingface,
    write_meta,
)


def refuse(path: Path, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


PARAMS: list[tuple[object, str]] = [
    ("", r"params\.json: expected a JSON object; found 0 bytes"),
    ('{"dim": 96, "n_hea', r"params\.json: expected a JSON object; found 18 bytes that are none"),
    ("[]", r"params\.json: expected a JSON object; found list"),
    ({"dim": None}, "dim to be a whole number"),
    ({"dim": "96"}, "dim to be a whole number.*'96'"),
    ({"dim": 192}, "dim 96, as the weights have; found 192"),
    ({"dim": -96}, "dim to be a whole number, at least 1"),
    ({"n_heads": 5}, "dim divisible by n_heads; found 96 and 5"),
    ({"n_heads": 12}, "heads of 16, as the weights have; found n_heads 12: heads of 8"),
    ({"n_kv_heads": 4}, "heads divisible"),
    ({"n_kv_heads": 6}, r"wk\.weight of shape \[96, 96\]; found \[48, 96\]"),
    ({"n_layers": 3}, r"the tensor layers\.2\.\S+; found none"),
    ({"n_layers": 1}, r"1-layer llama; found layers\.1\.\S+ besides"),
    ({"n_layers": True}, "n_layers to be a whole number"),
    ({"multiple_of": 100}, "feed-forward size of 256, as the weights have; found 300"),
    ({"ffn_dim_multiplier": 2}, "feed-forward size of 256"),
    ({"vocab_size": 513}, "vocab_size 512, as the weights have; found vocab_size 513"),
    ({"norm_eps": None}, "norm_eps to be a positive number"),
    ({"norm_eps": float("nan")}, "norm_eps to be a positive number"),
    ({"rope_theta": -1}, "rope_theta to be a positive number"),
    ({"use_scaled_rope": "yes"}, "use_scaled_rope to be true or false"),
    ({"moe": {"num_experts": 8}}, "'moe' besides"),
]


@pytest.mark.parametrize(("change", "problem"), PARAMS)
def test_fault_37_params(tmp_path: Path, change: object, problem: str) -> None:
    path = write_meta(tmp_path)
    if isinstance(change, dict):
        settings = {k: value for k, value in (params(Tiny()) | change).items() if value is not None or k not in change}
        change = json.dumps(settings)
    (path / "params.json").write_text(str(change))
    refuse(path, problem)


def test_fault_37_missing_shards(tmp_path: Path) -> None:
    path = write_meta(tmp_path, shards=3)
    (path / "consolidated.01.pth").rename(path / "elsewhere")
    refuse(path, r"consolidated\.01\.pth; found shards \[0, 2\] without it")
    (path / "elsewhere").rename(path / "consolidated.01.pth")
    (path / "consolidated.02.pth").unlink()
    refuse(path, r"expected 3 shards \(dim 96 in rows of 32\); found 2")
    for file in path.glob("*.pth"):
        file.unlink()
    refuse(path, r"consolidated\.00\.pth; found no")


def test_missing_params_and_tokenizer(tmp_path: Path) -> None:
    path = write_meta(tmp_path / "a" / "b")
    (path / "tokenizer.model").unlink()
    refuse(path, r"tokenizer\.model in it or beside it")
    (path / "params.json").unlink()
    refuse(path, r"params\.json beside the shards")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_fault_37_truncated_shard(tmp_path: Path, keep: float) -> None:
    path = write_meta(tmp_path, shards=3)
    content = (path / "consolidated.01.pth").read_bytes()
    (path / "consolidated.01.pth").write_bytes(content[: int(keep * len(content))])
    refuse(path, r"consolidated\.01\.pth: expected a complete torch file")


def test_other_content_in_a_shard(tmp_path: Path) -> None:
    path = write_meta(tmp_path)
    file = path / "consolidated.00.pth"
    tensors = weights(Tiny())
    torch.save([1, 2], file)
    refuse(path, "dictionary of named tensors; found list")
    torch.save(tensors | {"layers.0.attention.wq.bias": torch.zeros(96)}, file)
    refuse(path, r"wq\.bias besides")
    torch.save(tensors | {"norm.weight": torch.zeros(97)}, file)
    refuse(path, r"norm\.weight of shape \[96\]; found \[97\]")
    torch.save(tensors | {"norm.weight": torch.zeros(96, dtype=torch.int32)}, file)
    refuse(path, r"norm\.weight in float32, float16 or bfloat16; found torch\.int32")
    file.write_bytes(b"PK" + bytes(1000))
    refuse(path, "complete torch file")


def test_shards_of_different_checkpoints(tmp_path: Path) -> None:
    path = write_meta(tmp_path / "a", shards=3)
    other = Tiny(n_kv_heads=6)
    strange = write_meta(tmp_path / "b", other, shards=3)
    (strange / "consolidated.01.pth").rename(path / "consolidated.01.pth")
    refuse(path, r"consolidated\.0\d\.pth: expected layers\.0\.attention\.wk\.weight of shape")


def test_vocabularies_that_do_not_fit(tmp_path: Path) -> None:
    refuse(write_meta(tmp_path, tokenizer=b"nothing"), r"tokenizer\.model: expected a SentencePiece model")
    refuse(
        write_meta(tmp_path, tokenizer=tiktoken_vocabulary()),
        "vocabulary of 512, as the weights have; found one of 520",
    )
    refuse(write_meta(tmp_path, Tiny(vocab_size=640)), "vocabulary of 640, as the weights have; found one of 512")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layers.1.feed_forward.w2.weight", "norm.weight"])
def test_a_single_weight_that_is_not_finite(tmp_path: Path, name: str, value: float) -> None:
    tiny = Tiny()
    tensors = weights(tiny)
    tensors[name].view(-1)[-1] = value
    checkpoint = open_checkpoint(write_meta(tmp_path, tiny, tensors=tensors, shards=3))
    file = "00" if name == "norm.weight" else "02"
    problem = rf"consolidated\.{file}\.pth: expected finite weights; found NaN or infinity in {name}"
    for dtype in (torch.bfloat16, torch.float32):
        with pytest.raises(ConfigError, match=problem):
            checkpoint.copy_into(name, torch.empty(tensors[name].shape, dtype=dtype))
    if name != "norm.weight":  # a slice without the first shards
        part = torch.empty(96, 100)
        with pytest.raises(ConfigError, match=problem):
            checkpoint.copy_into(name, part, dim=1, start=156)


class Payload:
    def __init__(self, command: tuple[Callable[[str], object], str]) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return self._command[0], (self._command[1],)


@pytest.mark.parametrize("form", ["archive", "bare"])
def test_fault_38_a_pickle_payload_does_not_run(tmp_path: Path, form: str) -> None:
    path = write_meta(tmp_path / "model")
    sentinel = tmp_path / "sentinel"
    content = {**weights(Tiny()), "payload": Payload((os.mkdir, str(sentinel)))}
    file = path / "consolidated.00.pth"
    if form == "archive":
        torch.save(content, file)
        refuse(path, "tensors and nothing else; found a pickle of other objects")
    else:
        file.write_bytes(pickle.dumps(content["payload"]))
        refuse(path, r"consolidated\.00\.pth")
    assert not sentinel.exists()
    if form == "archive":  # the payload does run where it may
        torch.load(file, weights_only=False)
        assert sentinel.exists()


def test_compressed_archives_are_refused_not_misread(tmp_path: Path) -> None:
    path = write_meta(tmp_path)
    file = path / "consolidated.00.pth"
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    refuse(path, r"consolidated\.00\.pth")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path / "nowhere", "nothing there"),
        (lambda path: path, "params.json.*config.json.*; found nothing"),
        (
            lambda path: _file(path / "notes.txt", b"hello"),
            "a GGUF file or a checkpoint's directory; found another file",
        ),
        (lambda path: path / ("x" * 300), "."),
        (lambda path: path / "a\0b", "."),
    ],
)
def test_paths(tmp_path: Path, make: Callable[[Path], Path], problem: str) -> None:
    refuse(make(tmp_path), problem)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "name", ["consolidated.00.pth", "tokenizer.model", "params.json", "model.safetensors", "config.json", "m.gguf"]
)
def test_flipped_bytes_are_reported_or_harmless(tmp_path: Path, name: str) -> None:
    """Opening a damaged file succeeds or raises ConfigError with one line, whichever bytes are wrong."""
    if name == "m.gguf":
        path = file = write_gguf(tmp_path / name)
    else:
        write = write_huggingface if name in ("model.safetensors", "config.json") else write_meta
        path = write(tmp_path)
        file = path / name
    content, chance = file.read_bytes(), random.Random(name)
    errors: list[str] = []
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 1, 3])):
            near_an_end = chance.randrange(min(4000, len(content)))
            damaged[chance.choice([near_an_end, -1 - near_an_end])] = chance.choice([0, 255, chance.randrange(256)])
        file.write_bytes(damaged)
        try:
            open_checkpoint(path).close()
        except ConfigError as error:
            errors.append(str(error))
    assert errors
    assert not any("\n" in error for error in errors)


def test_load_keeps_no_second_copy(tmp_path: Path) -> None:
    """Loading raises peak memory by less than 1.25 x the bytes of the weights."""
    from engine.bench.make_checkpoint import SHAPES, make_checkpoint

    shape = SHAPES["tiny"]
    shape = type(shape)(1024, 16, 8, 8, 256, 512, 2)
    make_checkpoint(tmp_path, shape)
    script = """
import resource, sys, torch
from engine.checkpoint import open_checkpoint, tensor_shapes
checkpoint = open_checkpoint(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
warm = torch.zeros(96); checkpoint.copy_into("norm.weight", torch.empty(1024, dtype=torch.bfloat16))
before, size, kept = peak(), 0, []
for name, dims in tensor_shapes(checkpoint.spec).items():
    out = torch.empty(dims, dtype=torch.bfloat16)
    checkpoint.copy_into(name, out)
    kept.append(out)
    size += out.nbytes
print((peak() - before) / size, size)
"""
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    share, size = map(float, ran.stdout.split())
    assert size > 400e6
    assert share < 1.25
