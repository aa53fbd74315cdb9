"""Mixtures of experts in compiled code equal plain torch over the same weights, whatever the tokens choose."""

import pytest
import torch

from engine.checkpoint import ModelSpec
from engine.checkpoint.architecture import Architecture
from engine.config import EngineConfig, resolve
from engine.layers.paged_attention import DenseAttention, Segment
from engine.model.rope import rope_table
from engine.model.transformer import Transformer
from engine.runner.cpu.linear import NativeLinear
from engine.runner.cpu.native_runner import NativeRunner
from engine.runner.cpu.quantize import CpuQuantizer
from engine.runner.factory import make_runner
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan
from tests.engine.runner.cpu.native_code import NativeModel, page_ids, require_compiled_library

CONTEXT, VOCABULARY = 128, 90
SHAPES = {
    "a3b": Architecture(qk_norm=True, experts=20, experts_per_token=8),
    "mixtral": Architecture(experts=8, experts_per_token=2),
    "unnormalized": Architecture(experts=5, experts_per_token=3, normalized_experts=False),
    "one of three": Architecture(experts=3, experts_per_token=1, normalized_experts=False),
    "all": Architecture(experts=9, experts_per_token=9, post_norms=True, activation="gelu_tanh"),
}
IDS = torch.randint(0, VOCABULARY, (60,), generator=torch.Generator().manual_seed(2)).tolist()


def load(shape: str, quantize: str = "int8") -> tuple[EngineConfig, Transformer]:
    """A small random model with odd sizes; its router's choices are far apart."""
    spec = ModelSpec(
        format="meta", chat="llama2", dim=44, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, ffn_dim=37,
        vocab_size=VOCABULARY, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1, architecture=SHAPES[shape],
    )  # fmt: skip
    model = Transformer(spec, dtype=torch.float32)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        scale = 1.0 if parameter.dim() == 1 else 1.5 * parameter.shape[-1] ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    model.rope = rope_table(spec, CONTEXT, torch.device("cpu"))
    return resolve(spec, device="cpu", max_context=CONTEXT, quantize=quantize), model.eval()


def quantized(config: EngineConfig, model: Transformer) -> Transformer:
    quantizer = CpuQuantizer(config.quantize, require_compiled_library())
    for block in model.blocks:
        quantizer.block(block)
    quantizer.output(model)
    return model


def plain_torch(config: EngineConfig, model: Transformer) -> torch.Tensor:
    with torch.inference_mode():
        hidden = model(torch.tensor(IDS), torch.arange(len(IDS)), DenseAttention(len(IDS), config.device))
        return model.logits(hidden)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_plain_torch_however_the_tokens_are_divided(shape: str, quantize: str) -> None:
    config, model = load(shape, quantize)
    quantized(config, model)
    whole = NativeModel(config, model)(IDS, Segment(page_ids(0), 0, len(IDS)))
    expected = plain_torch(config, model)
    # An activation may round to the neighbouring 16-bit code.
    assert float((whole - expected).abs().max()) < 2e-3 * float(expected.std())
    one_by_one = NativeModel(config, model)
    assert torch.equal(torch.cat([one_by_one([id_], Segment(page_ids(1), at, 1)) for at, id_ in enumerate(IDS)]), whole)
    for threads in (2, 3):
        divided, chunks = NativeModel(config, model, threads), []
        for start, end in ((0, 1), (1, 7), (7, 9), (9, 40), (40, 60)):
            beside = Segment(page_ids(2), start, 1)
            ids = [IDS[-1 - start], *IDS[start:end]]
            chunks.append(divided(ids, beside, Segment(page_ids(0), start, end - start))[1:])
        assert torch.equal(torch.cat(chunks), whole)


@pytest.mark.parametrize("shape", ["a3b", "unnormalized", "one of three"])
def test_matrices_of_experts_without_tokens_are_not_read(shape: str) -> None:
    """All tokens choose the same experts: a large first dimension decides. The others' matrices hold NaN."""
    config, model = load(shape)
    blocks = SHAPES[shape]
    model.tok_embeddings.weight.data[:, 0] = 50.0
    for block in model.blocks:
        assert block.experts is not None
        block.ffn_norm.weight.data[0] = 1.0
        block.experts.router.data[:, 0] += torch.arange(blocks.experts) * 3
    quantized(config, model)
    expected = plain_torch(config, model)
    last = range(blocks.experts - blocks.experts_per_token, blocks.experts)
    for block in model.blocks:
        for number, pair in enumerate(block.feed_forwards):
            for linear in pair if number not in last else ():
                assert isinstance(linear.quantized, NativeLinear)
                linear.quantized._data.fill_(255)
    for threads in (1, 2):
        got = NativeModel(config, model, threads)(IDS, Segment(page_ids(0), 0, len(IDS)))
        assert float((got - expected).abs().max()) < 2e-3 * float(expected.std())


def test_nan_reaches_the_logits_of_its_row_only() -> None:
    config, model = load("a3b")
    model.tok_embeddings.weight.data[7] = torch.nan
    quantized(config, model)
    rows = (Segment(page_ids(0), 0, 1), Segment(page_ids(1), 0, 1), Segment(page_ids(2), 0, 1))
    logits = NativeModel(config, model, 2)([5, 7, 5], *rows)
    assert bool(logits[1].isnan().all())
    assert bool(logits[0].isfinite().all())
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("shape", ["a3b", "unnormalized"])
def test_a_router_with_nan_is_noticed_though_other_experts_are_chosen(shape: str) -> None:
    config, model = load(shape)
    for block in model.blocks:
        assert block.experts is not None
        block.experts.router.data[-1] = torch.nan
    quantized(config, model)
    assert bool(plain_torch(config, model).isnan().all())
    assert bool(NativeModel(config, model)(IDS, Segment(page_ids(0), 0, len(IDS))).isnan().all())


@pytest.mark.parametrize("shape", ["a3b", "mixtral"])
def test_replies_equal_plain_torch(shape: str) -> None:
    """Prompts in chunks and beside decoding rows; one continues a page that another has filled."""
    config, model = load(shape)
    quantized(config, model)
    runners = make_runner(config, model), TorchRunner(config, model, 40)
    assert isinstance(runners[0], NativeRunner)
    page, prompt, other = config.page_size, tuple(IDS[:41]), tuple(IDS[:16] + IDS[-9:])
    grants = ((0, 0, 9), (0, 1, 4), (0, 2, 7)), ((1, 0, 9), (1, 1, 3))
    plans = [
        StepPlan(0, (NewSequence(0, 0.0, 1.0, 1),), grants[0], (PrefillChunk(0, 0, prompt[:20], False),)),
        StepPlan(1, (), (), (PrefillChunk(0, 20, prompt[20:], True),)),
        StepPlan(2, (NewSequence(1, 0.0, 1.0, 2),), grants[1], (PrefillChunk(1, page, other[page:], True),), (0,)),
        *(StepPlan(3 + step, decode_rows=(0, 1)) for step in range(6)),
    ]  # fmt: skip
    for plan in plans:
        ours, expected = (runner.wait(runner.execute_async(plan)) for runner in runners)
        assert ours == expected
