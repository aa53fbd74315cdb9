"""Each set of instructions that the compiled code can use is forced, and computes the same products to the bit.

One that this machine's processor lacks is skipped. AMX's tiles are also emulated, which needs AVX-512 only.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from engine.runner.cpu import build
from engine.runner.cpu.linear import NativeLinear
from tests.engine.layers.test_cpu_linear import tokens, weights
from tests.engine.runner.cpu.native_code import NativeModel, require_compiled_library
from tests.engine.runner.cpu.test_native_step import load, steps_change_nothing

SHAPES = [(960, 576), (37, 53), (48, 96)]
TOKENS = 70  # several blocks of AMX's 16, and a rest


@pytest.fixture(params=[name for name in build.INSTRUCTION_SETS])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Forces each of them by the environment variable."""
    if lacking := build.missing_instructions(request.param):
        pytest.skip(lacking)
    require_compiled_library()
    monkeypatch.setenv("GUILDLLAMA_INSTRUCTIONS", request.param)
    build.compiled_library.cache_clear()
    yield request.param
    build.compiled_library.cache_clear()


def codes_of_a_file(shape: tuple[int, int]) -> torch.Tensor:
    """Weights that are packed without minimums."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(-8, 8, shape, generator=generator) * torch.full((shape[0], 1), 0.0078125)


def test_products_are_the_same_to_the_bit(instructions: str) -> None:
    forced = require_compiled_library()
    plain = build.compiled_library("avx2")
    assert plain is not None
    assert instructions == "avx2" or forced._name != plain._name
    for shape in SHAPES:
        x = tokens(TOKENS, shape[1])
        for form in ("int8", "int4", "centred int4"):
            weight = codes_of_a_file(shape) if form == "centred int4" else weights(shape)
            expected, got = (NativeLinear(library, weight, 8 if form == "int8" else 4) for library in (plain, forced))
            assert got.matrix.has_minimums == (form == "int4")
            assert torch.equal(got(x), expected(x))
            for count in (1, 5, 16, 33):
                assert torch.equal(got(x[3 : 3 + count]), expected(x)[3 : 3 + count])


def test_largest_codes_do_not_overflow(instructions: str) -> None:
    """All weights and activations at the ends of their ranges."""
    library = require_compiled_library()
    for bits in (4, 8):
        for sign in (1.0, -1.0):
            weight = torch.full((16, 64), 1.0)
            weight[:, 32:] = -1.0
            weight[::2, 5] = -1.0
            x = torch.full((17, 64), sign)
            x[1] = weight[0] * sign
            got = NativeLinear(library, weight, bits)(x)
            assert torch.allclose(got, x @ weight.T, atol=2e-2)


@pytest.mark.parametrize("quantize", ["int4", pytest.param("int8", marks=pytest.mark.long)])
def test_a_reply_does_not_depend_on_steps_and_neighbours(instructions: str, tmp_path: Path, quantize: str) -> None:
    config, model = load(tmp_path / "model", "grouped", quantize)
    steps_change_nothing(lambda threads: NativeModel(config, model, threads))


def test_unknown_and_missing_instructions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build.compiled_library.cache_clear()
    monkeypatch.setenv("GUILDLLAMA_INSTRUCTIONS", "sse2")
    with pytest.raises(ConfigError, match=r"GUILDLLAMA_INSTRUCTIONS: expected auto or one of avx2, avx512"):
        build.compiled_library()
    monkeypatch.setattr(build, "_processor", lambda name: "avx2 fma f16c")
    with pytest.raises(ConfigError, match="it lacks avx512_vnni, avx512bw, avx512f"):
        build.compiled_library("avx512-vnni")
    assert build.missing_instructions("avx2") is None
