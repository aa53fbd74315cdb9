"""Models with quantized weights on a CPU: when they are chosen, how accurate they are, and that a reply does not depend
on the other requests."""

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch

from engine import config as engine_config
from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.core.worker import start_worker
from engine.distributed.communicator import SingleRank
from engine.errors import ConfigError
from engine.layers.cpu_linear import Int4Linear, Int8Linear
from engine.runner.cpu import quantize as cpu_quantize
from engine.runner.cpu.build import compiled_library
from engine.runner.cpu.linear import NativeLinear
from tests.engine.checkpoint.builders import write_gguf
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.runner.cpu.native_code import require_compiled_library
from tests.engine.tiny import GOLDEN, write_checkpoint

PROMPTS = [[1, *range(20 + 7 * number, 50 + 11 * number)] for number in range(5)]


@pytest.fixture
def fast_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has all fast instructions, as far as `resolve` can tell."""
    monkeypatch.setattr(engine_config, "has_fast_int8", lambda: True)
    monkeypatch.setattr(engine_config, "has_fast_int4", lambda: True)


@pytest.mark.usefixtures("fast_processor")
def test_auto_does_not_quantize_float_weights() -> None:
    spec = open_checkpoint(GOLDEN / "llama2-tiny").spec
    assert resolve(spec, device="cpu").quantize == "none"
    assert resolve(spec, device="cpu", quantize="int4").quantize == "int4"


@pytest.mark.usefixtures("fast_processor")
@pytest.mark.parametrize(
    ("stored_as", "expected"),
    [
        *((name, "int4") for name in ("Q2_K+Q6_K", "Q3_K", "Q4_K+Q6_K", "IQ4_NL+Q5_0", "IQ4_XS", "MXFP4+Q8_0")),
        ("int4 in groups of 128 (gptq)", "int4"),
        ("float8 in blocks of 128 x 128 (fp8)", "int8"),
        *((name, "int8") for name in ("Q5_0", "Q5_1+Q8_0", "Q5_K", "Q6_K", "Q8_0+Q4_K")),
    ],
)
def test_case_14_auto_keeps_about_the_bits_of_every_block_type(stored_as: str, expected: str) -> None:
    spec = replace(open_checkpoint(GOLDEN / "llama2-tiny").spec, quantization=stored_as)
    assert resolve(spec, device="cpu").quantize == expected


@pytest.mark.parametrize(("stored_as", "expected"), [("Q4_K+Q6_K", "int4"), ("Q8_0", "int8"), (None, "none")])
def test_auto_keeps_them_on_a_gpu_whatever_the_processor(
    stored_as: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_config, "has_fast_int8", lambda: False)
    monkeypatch.setattr(engine_config, "has_fast_int4", lambda: False)
    monkeypatch.setattr(engine_config, "_device", lambda *_: torch.device("cuda", 0))
    spec = replace(open_checkpoint(GOLDEN / "llama2-tiny").spec, quantization=stored_as)
    assert resolve(spec).quantize == expected
    assert resolve(spec, dtype="bfloat16").quantize == resolve(spec, quantize="none").quantize == "none"


@pytest.mark.usefixtures("fast_processor")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (gguf.GGMLQuantizationType.F32, "none"),
        (gguf.GGMLQuantizationType.Q8_0, "int8"),
        (gguf.GGMLQuantizationType.Q4_1, "int4"),
    ],
)
def test_auto_quantizes_to_about_the_bits_of_the_file(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = open_checkpoint(write_gguf(tmp_path / "model.gguf", kind=kind)).spec
    assert resolve(spec, device="cpu").quantize == expected
    assert resolve(spec, device="cpu", dtype="float32").quantize == "none"
    assert resolve(spec, device="cpu", quantize="none").quantize == "none"
    monkeypatch.setattr(engine_config, "has_fast_int8", lambda: False)
    monkeypatch.setattr(engine_config, "has_fast_int4", lambda: False)
    assert resolve(spec, device="cpu").quantize == "none"


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_reply_is_the_same_alone_and_in_a_batch(tmp_path: Path, quantize: str, native: bool) -> None:
    if native:
        require_compiled_library()
    folder = write_checkpoint(tmp_path / "model", dim=64, heads=4, kv_heads=2, multiple_of=64)
    checkpoint = open_checkpoint(folder)
    config = resolve(
        checkpoint.spec, device="cpu", max_context=256, max_num_seqs=4, max_prefill_tokens=16, quantize=quantize
    )
    config = replace(config, native=native)

    def replies(prompts: list[list[int]], engine: EngineCore) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
        return [running.result(60) for running in [engine.submit(prompt, params) for prompt in prompts]]

    alone = []
    for prompt in PROMPTS:
        engine = EngineCore.start(config, checkpoint)
        alone += replies([prompt], engine)
        engine.close()
    engine = EngineCore.start(config, checkpoint)
    assert replies(PROMPTS, engine) == alone
    assert replies(PROMPTS[::-1], engine) == alone[::-1]  # and with cached pages
    engine.close()


@pytest.mark.parametrize(
    ("quantize", "kind", "tolerance"),
    [
        ("int8", Int8Linear, 0.05),
        ("int4", Int4Linear, 0.25),
        ("int8", NativeLinear, 0.05),
        ("int4", NativeLinear, 0.25),
    ],
)
def test_layers_are_quantized_and_the_logits_close(
    tmp_path: Path, quantize: str, kind: type[torch.nn.Module], tolerance: float
) -> None:
    native = kind is NativeLinear
    if native:
        require_compiled_library()
    folder = write_checkpoint(tmp_path / "model", dim=64, heads=4, kv_heads=2, multiple_of=64, spread=0.08)
    checkpoint = open_checkpoint(folder)
    config = resolve(checkpoint.spec, device="cpu", max_context=256)
    expected = all_logits(start_worker(config, checkpoint, SingleRank()).model, PROMPTS[0])
    model = start_worker(replace(config, quantize=quantize, native=native), checkpoint, SingleRank()).model
    for block in model.blocks:
        for linear in (block.wqkv, block.wo, block.w13, block.w2):
            assert isinstance(linear.quantized, kind)
            assert "weight" not in dict(linear.named_parameters())
    assert isinstance(model.output.quantized, NativeLinear if native else Int8Linear)
    assert float((all_logits(model, PROMPTS[0]) - expected).std()) < tolerance * float(expected.std())


@pytest.mark.long
def test_the_embedded_model_stays_accurate_and_keeps_its_embedding() -> None:
    checkpoint = open_checkpoint("smollm2")
    config = resolve(checkpoint.spec, device="cpu", max_context=128, quantize="none")
    ids = checkpoint.tokenizer().encode("The capital of France is Paris, and the capital of Italy is")
    expected = all_logits(start_worker(config, checkpoint, SingleRank()).model, ids).double().log_softmax(-1)
    # The compiled code keeps the numbers of a Q4_1 or Q8_0 file exactly; without a compiler torch computes here too.
    for quantize, native, max_kl in (
        ("int8", False, 0.03),
        ("int4", False, 0.03),
        ("int8", True, 0.03),
        ("int4", True, 1e-4 if compiled_library() else 0.03),
    ):
        model = start_worker(replace(config, quantize=quantize, native=native), checkpoint, SingleRank()).model
        quantized = all_logits(model, ids).double().log_softmax(-1)
        assert float((expected.exp() * (expected - quantized)).sum(-1).mean()) < max_kl
        assert checkpoint.tokenizer().decode([int(quantized[-1].argmax())]) == " Rome"
        assert model.tok_embeddings.weight.shape == (checkpoint.spec.vocab_size, checkpoint.spec.dim)


def test_a_processor_without_quantized_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(GOLDEN / "llama2-tiny")
    config = resolve(checkpoint.spec, device="cpu", max_context=128, quantize="int8")
    config = replace(config, native=False)
    monkeypatch.setattr(cpu_quantize, "byte_range", lambda: None)
    with pytest.raises(ConfigError, match="--quantize: expected none, on this processor"):
        start_worker(config, checkpoint, SingleRank())
