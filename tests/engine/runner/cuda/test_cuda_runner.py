"""The GPU runner samples the same ids as plain torch, plan by plan, whatever a step mixes."""

from dataclasses import replace

import pytest
import torch

from engine.checkpoint import Architecture, ModelSpec
from engine.config import EngineConfig
from engine.layers.paged_attention import PLAIN, AttentionRule, PagedAttention
from engine.layers.paged_kv import PagedKV
from engine.layers.quantized_kv import stored_values
from engine.logits_params import Adjustment, LogitsParams, TokenLogprobs
from engine.model.quantization import quantize_block
from engine.model.rope import local_rope_table, rope_table
from engine.model.transformer import Transformer
from engine.runner.cuda.batch.input_buffers import MAX_PAGE_GRANTS, batch_shapes, first_shapes
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.cuda.host_tier.host_pages import PinnedSlots
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan
from engine.scheduler.token_budget import TokenBudget

PAGES, CONTEXT = 40, 128
PLAIN_LLAMA = Architecture()
FAMILIES = {
    "llama": PLAIN_LLAMA,
    "qwen2": Architecture(qkv_bias=True),
    "qwen3": Architecture(qk_norm=True),
    "both": Architecture(qkv_bias=True, qk_norm=True),
    "windows": Architecture(windows=(21, None)),
    "head_size": PLAIN_LLAMA,
    "gemma1": Architecture(float32_norms=True, activation="gelu_tanh", embedding_scale=32**0.5),
    "gemma": Architecture(
        qk_norm=True,
        post_norms=True,
        float32_norms=True,
        activation="gelu_tanh",
        embedding_scale=32**0.5,
        attention_scale=0.4,
        attention_softcap=2.0,
        logit_softcap=3.0,
        windows=(9, None),
        local_rope_theta=100.0,
    ),
    "qwen3moe": Architecture(qk_norm=True, experts=5, experts_per_token=2),
    "mixtral": Architecture(windows=(30, None), experts=4, experts_per_token=3, normalized_experts=False),
    "biases": Architecture(qkv_bias=True, output_bias=True, ffn_bias=True),
}
HEAD_DIMS = {"head_size": 12, "gemma": 24}


def config(**changes: object) -> EngineConfig:
    settings = {
        "device": torch.device("cpu"), "dtype": torch.float32, "max_num_seqs": 4, "max_context": CONTEXT,
        "max_prefill_tokens": 40,
    }  # fmt: skip
    return EngineConfig(**(settings | changes))


def model(kv_heads: int, blocks: Architecture = PLAIN_LLAMA, head_dim: int = 16) -> Transformer:
    spec = ModelSpec(
        format="meta", chat="llama2", dim=32, n_layers=2, n_heads=2, n_kv_heads=kv_heads, head_dim=head_dim, ffn_dim=48,
        vocab_size=50, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1, architecture=blocks,
    )  # fmt: skip
    made = Transformer(spec, dtype=torch.float32)
    made.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        scale = 1.0 if parameter.dim() == 1 else 2 * parameter.shape[-1] ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    made.rope = rope_table(spec, CONTEXT, torch.device("cpu"))
    made.local_rope = local_rope_table(spec, CONTEXT, torch.device("cpu"))
    return made.eval()


def tokens(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 50, (count,), generator=generator).tolist())


def grants(row: int, first: int, count: int) -> tuple[tuple[int, int, int], ...]:
    """Page ids out of order, none twice: row r owns those with page_id % 4 == r."""
    return tuple((row, index, (7 * index % 10) * 4 + row) for index in range(first, first + count))


# Two of the sequences are adjusted; one of them, and one that is not, return log-probabilities.
EVERYTHING = LogitsParams(
    repetition_penalty=1.4, frequency_penalty=0.5, presence_penalty=0.25, logit_bias=((7, 2.0), (9, -100.0)),
    min_tokens=2, min_p=0.02, top_k=9,
)  # fmt: skip
LIMITS = LogitsParams(logit_bias=((3, 1.5),), top_k=2)
EVEN_IDS = bytes([0b01010101]) * 7


def plans() -> list[StepPlan]:
    """Prompts alone, beside decoding rows, in two chunks, two in one step; all rows decode; rows freed and reused."""
    history = tokens(40, 2) + tokens(23, 3)
    adjusted = NewSequence(0, 0.8, 0.9, 9 << 40, True, Adjustment(EVERYTHING, history, 63, 0, (1, 2, 4)), 3)
    limited = NewSequence(2, 1.3, 0.7, 2, True, Adjustment(LIMITS))
    return [
        StepPlan(0, (NewSequence(1, 0.0, 1.0, 5),), grants(1, 0, 2), (PrefillChunk(1, 0, tokens(17, 1), True),)),
        StepPlan(1, decode_rows=(1,)),
        StepPlan(2, (adjusted,), grants(0, 0, 5), (PrefillChunk(0, 0, tokens(40, 2), False),), (1,)),
        StepPlan(3, (), (), (PrefillChunk(0, 40, tokens(23, 3), True),), (1,)),
        StepPlan(4, decode_rows=(1, 0)),
        StepPlan(
            5,
            (NewSequence(3, 0.0, 1.0, 1, num_logprobs=1), limited),
            (*grants(3, 0, 1), *grants(2, 0, 2)),
            (PrefillChunk(3, 0, tokens(1, 4), True), PrefillChunk(2, 0, tokens(20, 5), True)),
            (0, 1),
        ),
        StepPlan(6, decode_rows=(3, 1, 0, 2), token_masks=((2, EVEN_IDS),)),
        StepPlan(7, decode_rows=(3, 1, 0, 2)),
        StepPlan(8, decode_rows=(0, 2), freed_rows=(1, 3)),
        StepPlan(9, (NewSequence(1, 0.0, 1.0, 5),), grants(1, 0, 2), (PrefillChunk(1, 16, tokens(9, 6), True),), (2,)),
        StepPlan(10, decode_rows=(2, 1)),
        StepPlan(11, freed_rows=(0,)),
        StepPlan(12, decode_rows=(1, 2)),
    ]


@pytest.mark.parametrize(
    ("family", "kv_heads", "fused"),
    [
        ("llama", 1, 128),
        *(pytest.param(*case, marks=pytest.mark.long) for case in (
            ("qwen3moe", 1, 16), ("llama", 2, 16), ("llama", 2, 128), ("llama", 1, 16), ("qwen2", 2, 16),
            ("qwen3", 1, 16), ("both", 1, 128), ("windows", 1, 16), ("windows", 2, 128), ("head_size", 2, 16),
            ("gemma1", 1, 16), ("gemma1", 2, 128), ("gemma", 1, 128), ("gemma", 2, 16), ("biases", 2, 16),
            ("biases", 1, 128), ("mixtral", 2, 128),
        )),
    ],
)  # fmt: skip
def test_the_same_ids_as_plain_torch(family: str, kv_heads: int, fused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of up to `fused` tokens take the fused path, others the plain one. The weights come after the start."""
    monkeypatch.setattr("engine.runner.cuda.forward.FUSED_TOKENS", fused)
    if fused == 128:  # most steps of prompts are fused then; their contexts are split
        monkeypatch.setattr("engine.runner.cuda.batch.query_blocks.MIN_SPLIT", 20)
    transformer = model(kv_heads, FAMILIES[family], HEAD_DIMS.get(family, 16))
    weights = {name: parameter.clone() for name, parameter in transformer.named_parameters()}
    for parameter in transformer.parameters():
        parameter.zero_()
    plain, ours = TorchRunner(config(), transformer, PAGES), CudaRunner(config(), transformer)

    def read_weights() -> None:
        for name, parameter in transformer.named_parameters():
            parameter.copy_(weights[name])

    ours.start(PAGES, wait_for_weights=read_weights)
    in_flight: list[tuple[dict[int, int], object]] = []
    logprobs: list[dict[int, TokenLogprobs]] = []
    for plan in plans():
        # As the engine core does: the ids of a step are read after the next step has been launched.
        plain_handle = plain.execute_async(plan)
        expected, handle = plain.wait(plain_handle), ours.execute_async(plan)
        assert plan.step != 6 or expected[2] % 2 == 0
        logprobs.append(plain.logprobs(plain_handle))
        in_flight.append((expected, handle))
        if len(in_flight) > 1:
            expected, handle = in_flight.pop(0)
            assert ours.wait(handle) == expected
            assert_close(ours.logprobs(handle), logprobs.pop(0))
    assert ours.wait(in_flight[0][1]) == in_flight[0][0]
    ours.close()


def assert_close(found: dict[int, TokenLogprobs], expected: dict[int, TokenLogprobs]) -> None:
    assert found.keys() == expected.keys()
    assert found.keys() <= {0, 3}
    for row, each in found.items():
        assert [token for token, _ in each.top] == [token for token, _ in expected[row].top]
        values, others = ([one.logprob, *(value for _, value in one.top)] for one in (each, expected[row]))
        assert values == pytest.approx(others, abs=1e-4)
        assert len(values) == {0: 4, 3: 2}[row]


def test_attack_padding_is_never_sampled() -> None:
    """The ids that the model likes best are declared padding: neither runner samples one of them again."""
    transformer = model(2)
    first = TorchRunner(config(), transformer, PAGES)
    likely = {id_ for plan in plans() for id_ in first.wait(first.execute_async(plan)).values()}
    transformer.spec = replace(transformer.spec, padding_ids=tuple(sorted(likely)))
    plain, ours = TorchRunner(config(), transformer, PAGES), CudaRunner(config(), transformer)
    ours.start(PAGES)
    for plan in plans()[:7]:  # up to the one in which all rows decode
        expected = plain.wait(plain.execute_async(plan))
        assert likely.isdisjoint(expected.values())
        assert ours.wait(ours.execute_async(plan)) == expected
    ours.close()


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_saved_page_is_restored_to_another_page(kv_dtype: str) -> None:
    """Row 1 goes on where row 0 was, in the page that was saved for it, with scales if it has some."""
    ours = CudaRunner(config(kv_dtype=kv_dtype), model(2))
    ours.start(PAGES, 3)

    def ids(plan: StepPlan) -> dict[int, int]:
        return ours.wait(ours.execute_async(plan))

    prompt, tables = tokens(21, 1), ((0, 0, 7), (0, 1, 3))
    chunks = (PrefillChunk(0, 0, prompt, True),)
    expected = ids(StepPlan(0, (NewSequence(0, 0.0, 1.0, 5),), tables, chunks))[0]
    assert ids(StepPlan(1, freed_rows=(0,), copies=PageCopies(saves=((7, 2),)))) == {}
    assert ids(StepPlan(2, copies=PageCopies(overwritten_pages=(7, 3)))) == {}
    assert not ours._forward.attention.kv.pages[[7, 3]].any()
    new = NewSequence(1, 0.0, 1.0, 5)
    assert ids(StepPlan(3, (new,), ((1, 0, 5), (1, 1, 7)), copies=PageCopies(restores=((2, 5),)))) == {}
    assert ids(StepPlan(4, chunks=(PrefillChunk(1, 16, prompt[16:], True),))) == {1: expected}
    ours.close()


def test_neighbouring_slots_and_pages_are_one_copy() -> None:
    kv = PagedKV(1, 9, 16, 1, 8, torch.float32, torch.device("cpu"))
    slots = PinnedSlots(kv, 0)
    slots._slots_of_segment = 4
    pairs = [(2, 5), (3, 6), (4, 7), (5, 8), (6, 1), (0, 2), (1, 3), (9, 0)]
    assert list(slots.runs(pairs)) == [(2, 5, 2), (4, 7, 2), (6, 1, 1), (0, 2, 2), (9, 0, 1)]
    assert list(slots.runs([])) == []


def test_more_grants_than_a_step_carries() -> None:
    transformer = model(2)
    ours = CudaRunner(config(max_num_seqs=2, max_context=MAX_PAGE_GRANTS * 16), transformer)
    ours.start(MAX_PAGE_GRANTS)
    many = tuple(
        (row, index, (row + index) % MAX_PAGE_GRANTS) for row in (0, 1) for index in range(MAX_PAGE_GRANTS - 10)
    )
    assert ours.wait(ours.execute_async(StepPlan(0, page_grants=many))) == {}
    assert ours._batch_state.page_tables[:2, : MAX_PAGE_GRANTS - 10].tolist() == [
        [(row + index) % MAX_PAGE_GRANTS for index in range(MAX_PAGE_GRANTS - 10)] for row in (0, 1)
    ]


def test_nan_logits_give_minus_one() -> None:
    transformer = model(2)
    with torch.no_grad():
        transformer.tok_embeddings.weight[7] = torch.nan
    ours = CudaRunner(config(), transformer)
    ours.start(PAGES)
    start = StepPlan(0, (NewSequence(0, 0.5, 0.9, 3),), grants(0, 0, 1), (PrefillChunk(0, 0, (3, 7), True),))
    assert ours.wait(ours.execute_async(start)) == {0: -1}


class QuantizedKVAttention(PagedAttention):
    """Attention that reads what an int8 cache would give back."""

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: AttentionRule = PLAIN
    ) -> torch.Tensor:
        return super().__call__(layer, q, stored_values(k, torch.int8), stored_values(v, torch.int8), rule)


@pytest.mark.parametrize(
    ("quantize", "kv_dtype", "kv_heads", "family"),
    [
        *(pytest.param(*case, marks=pytest.mark.long) for case in (
            ("int8", "auto", 1, "llama"), ("fp8", "auto", 2, "llama"), ("fp8", "auto", 2, "qwen3moe"),
            ("int4", "int8", 2, "llama"),
            ("int4", "auto", 2, "qwen3moe"), ("int8", "auto", 1, "gemma"), ("int4", "int8", 1, "windows"),
        )),
    ],
)  # fmt: skip
def test_quantized_weights_and_caches(
    kv_heads: int, quantize: str, kv_dtype: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of plain torch with the same quantized weights and, with int8 pages, quantized keys and values."""
    if kv_dtype == "int8":
        monkeypatch.setattr("engine.runner.torch_runner.PagedAttention", QuantizedKVAttention)
    transformer = model(kv_heads, FAMILIES[family], HEAD_DIMS.get(family, 16))
    for block in transformer.blocks:
        if quantize != "none":
            quantize_block(block, 4 if quantize == "int4" else 8, fp8=quantize == "fp8")
    plain = TorchRunner(config(), transformer, PAGES)
    ours = CudaRunner(config(quantize=quantize, kv_dtype=kv_dtype), transformer)
    ours.start(PAGES)
    for plan in plans()[:8]:
        assert ours.wait(ours.execute_async(plan)) == plain.wait(plain.execute_async(plan))
    ours.close()


@pytest.mark.parametrize(
    ("rows", "chunk", "burst"), [(32, 512, 1024), (1, 64, 0), (5, 40, 0), (100, 256, 0), (49, 15, 0), (256, 512, 1024)]
)
def test_every_plan_has_a_batch_shape(rows: int, chunk: int, burst: int) -> None:
    """Whatever rows decode beside as many prompt tokens as the budget gives."""
    counts_rows = burst > 0
    shapes = batch_shapes(
        config(max_num_seqs=rows, max_prefill_tokens=chunk, burst_prefill_tokens=burst, counts_rows=counts_rows)
    )
    assert len(set(shapes)) == len(shapes)
    assert max(shape.num_slots for shape in shapes if not shape.num_prefill_tokens) == rows
    token_budget = TokenBudget(chunk, burst, rows, counts_rows=counts_rows)
    for recorded in (shapes, first_shapes(shapes)):
        for num_decoding in range(rows + 1):
            tokens = token_budget.prefill_tokens(num_decoding)
            fitting = [s for s in recorded if s.num_slots >= num_decoding and s.num_prefill_tokens >= tokens]
            assert fitting
            if counts_rows:
                assert min(shape.num_tokens for shape in fitting) == burst
