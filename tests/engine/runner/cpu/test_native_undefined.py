"""The compiled code does nothing that C++ leaves undefined, whatever numbers it meets: g++ checks as it runs."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
import torch

from engine.layers.paged_attention import PagedKV, Segment
from engine.runner.cpu.build import FLAGS, SOURCES
from engine.runner.cpu.forward import NativeForward
from tests.engine.runner.cpu.native_code import code
from tests.engine.runner.cpu.test_native_step import load

CHECKED = ("-std=c++17", "-shared", "-fPIC", *FLAGS, "-O1", "-fsanitize=undefined")


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The same code, which says on stderr what it should not have done."""
    code()
    built = tmp_path_factory.mktemp("checked") / "step.so"
    command = [os.environ.get("CXX", "c++"), *CHECKED, str(SOURCES / "step.cpp"), "-o", str(built)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this compiler has no such checks")
    return ctypes.CDLL(str(built))


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("shape", ["many to one", "odd"])
def test_nothing_is_undefined(
    tmp_path: Path, checked: ctypes.CDLL, capfd: pytest.CaptureFixture[str], shape: str, quantize: str
) -> None:
    config, model = load(tmp_path / "model", shape, quantize)
    spec, page = model.spec, config.page_size
    for token, wrong in enumerate((torch.nan, torch.inf, -torch.inf, 1e37, 0.0, 1e-38), 10):
        model.tok_embeddings.weight.data[token, ::3] = wrong
    kv = PagedKV(spec.n_layers, 40, page, model.kv_heads, spec.head_dim, torch.float32, torch.device("cpu"))
    step = NativeForward(checked, model, kv, 2)
    ids = torch.arange(page + 9)
    rows = [Segment((row, 39 - row), at, length) for row, (at, length) in enumerate(((0, page + 1), (0, 0), (0, 8)))]
    capfd.readouterr()
    with torch.inference_mode():
        got = step.logits(ids, rows, [*range(len(ids)), 3])
        step.logits(ids[:3], [Segment((0, 39), page - 1, 3)], [])
    assert bool(got[page].isnan().all())
    assert bool(got[page + 1 : len(ids)].isfinite().all())
    assert capfd.readouterr().err == ""
