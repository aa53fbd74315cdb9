"""The compiled code has no undefined behaviour, whatever numbers it meets: the undefined behaviour sanitizer checks."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
import torch

from engine.layers.paged_attention import Segment
from engine.layers.paged_kv import PagedKV
from engine.runner.cpu.build import FLAGS, SOURCES
from engine.runner.cpu.forward import NativeForward
from tests.engine.families.cases import CASES
from tests.engine.families.test_native import load as load_family
from tests.engine.runner.cpu.native_code import require_compiled_library
from tests.engine.runner.cpu.test_native_step import load

SANITIZER_FLAGS = ("-std=c++17", "-shared", "-fPIC", *FLAGS, "-O1", "-fsanitize=undefined")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The same code, which reports undefined behaviour on stderr."""
    require_compiled_library()
    built = tmp_path_factory.mktemp("sanitized") / "step.so"
    command = [os.environ.get("CXX", "c++"), *SANITIZER_FLAGS, str(SOURCES / "step.cpp"), "-o", str(built)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this compiler has no sanitizer")
    return ctypes.CDLL(str(built))


@pytest.mark.parametrize(
    ("shape", "quantize"),
    [
        *(("large group", "int8"), ("large group", "int4"), ("odd", "int8"), ("odd", "int4")),
        *(("gemma2-27b", "int8"), ("gemma3", "int8"), ("llama-biases", "int4")),
        *(("qwen3-moe", "int8"), ("mixtral", "int4")),
    ],
)
def test_no_undefined_behaviour(
    tmp_path: Path, sanitized: ctypes.CDLL, capfd: pytest.CaptureFixture[str], shape: str, quantize: str
) -> None:
    config, model = (load_family if shape in CASES else load)(tmp_path / "model", shape, quantize)
    spec, page = model.spec, config.page_size
    for token, value in enumerate((torch.nan, torch.inf, -torch.inf, 1e37, 0.0, 1e-38), 10):
        model.tok_embeddings.weight.data[token, ::3] = value
    kv = PagedKV(spec.n_layers, 40, page, model.kv_heads, spec.head_dim, torch.float32, torch.device("cpu"))
    forward = NativeForward(sanitized, model, kv, 2)
    ids = torch.arange(page + 9)
    segments = [
        Segment((row, 39 - row), at, length) for row, (at, length) in enumerate(((0, page + 1), (0, 0), (0, 8)))
    ]
    capfd.readouterr()
    with torch.inference_mode():
        logits = forward.logits(ids, segments, [*range(len(ids)), 3])
        forward.logits(ids[:3], [Segment((0, 39), page - 1, 3)], [])
    assert bool(logits[page].isnan().all())
    assert bool(logits[page + 1 : len(ids)].isfinite().all())
    assert capfd.readouterr().err == ""
