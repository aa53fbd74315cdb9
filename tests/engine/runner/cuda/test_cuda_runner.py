"""The GPU's runner against the plain one, plan by plan: the same ids, whatever is mixed in a step."""

import pytest
import torch

from engine.checkpoint import ModelSpec
from engine.config import EngineConfig
from engine.kernels.reference import kept
from engine.layers.paged_attention import PagedAttend
from engine.model.quantization import pack_block
from engine.model.transformer import Transformer, rope_table
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.cuda.input_buffers import GRANTS, sizes
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.step_plan import Chunk, Plan, RowSetup

PAGES, CONTEXT = 40, 128


def config(**changes: object) -> EngineConfig:
    settings = {
        "device": torch.device("cpu"), "dtype": torch.float32, "max_batch": 4, "max_context": CONTEXT, "chunk": 40,
    }  # fmt: skip
    return EngineConfig(**(settings | changes))


def model(kv_heads: int) -> Transformer:
    spec = ModelSpec(
        format="meta", chat="llama2", dim=32, n_layers=2, n_heads=2, n_kv_heads=kv_heads, head_dim=16, ffn_dim=48,
        vocab_size=50, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1,
    )  # fmt: skip
    made = Transformer(spec, dtype=torch.float32)
    made.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        scale = 1.0 if parameter.dim() == 1 else 2 * parameter.shape[-1] ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    made.rope = rope_table(spec, CONTEXT, torch.device("cpu"))
    return made.eval()


def tokens(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 50, (count,), generator=generator).tolist())


def grants(row: int, first: int, count: int) -> tuple[tuple[int, int, int], ...]:
    """Pages that jump about and never repeat: row r owns those with page % 4 == r."""
    return tuple((row, index, (7 * index % 10) * 4 + row) for index in range(first, first + count))


def plans() -> list[Plan]:
    """Alone, beside decoding rows, in two chunks, two prompts in a step, all rows, rows that leave and come back."""
    return [
        Plan(0, (RowSetup(1, 0.0, 1.0, 5),), grants(1, 0, 2), (Chunk(1, 0, tokens(17, 1), True),)),
        Plan(1, decode=(1,)),
        Plan(2, (RowSetup(0, 0.8, 0.9, 9 << 40),), grants(0, 0, 5), (Chunk(0, 0, tokens(40, 2), False),), (1,)),
        Plan(3, (), (), (Chunk(0, 40, tokens(23, 3), True),), (1,)),
        Plan(4, decode=(1, 0)),
        Plan(
            5,
            (RowSetup(3, 0.0, 1.0, 1), RowSetup(2, 1.3, 0.7, 2)),
            (*grants(3, 0, 1), *grants(2, 0, 2)),
            (Chunk(3, 0, tokens(1, 4), True), Chunk(2, 0, tokens(20, 5), True)),
            (0, 1),
        ),
        Plan(6, decode=(3, 1, 0, 2)),
        Plan(7, decode=(3, 1, 0, 2)),
        Plan(8, decode=(0, 2), freed=(1, 3)),
        Plan(9, (RowSetup(1, 0.0, 1.0, 5),), grants(1, 0, 2), (Chunk(1, 16, tokens(9, 6), True),), (2,)),
        Plan(10, decode=(2, 1)),
        Plan(11, freed=(0,)),
        Plan(12, decode=(1, 2)),
    ]


@pytest.mark.parametrize("fused", [128, 16])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_the_same_ids_as_plain_torch(kv_heads: int, fused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fused`: up to so many tokens a step consists of our products; more go through the library's."""
    monkeypatch.setattr("engine.runner.cuda.forward.FUSED_TOKENS", fused)
    transformer = model(kv_heads)
    plain, ours = TorchRunner(config(), transformer, PAGES), CudaRunner(config(), transformer)
    ours.start(PAGES)
    ahead: list[tuple[dict[int, int], object]] = []
    for plan in plans():
        # One step ahead, as the core does it: the ids of a step are read after the next has been launched.
        expected, ticket = plain.collect(plain.launch(plan)), ours.launch(plan)
        ahead.append((expected, ticket))
        if len(ahead) > 1:
            expected, ticket = ahead.pop(0)
            assert ours.collect(ticket) == expected
    assert ours.collect(ahead[0][1]) == ahead[0][0]
    ours.close()


def test_more_grants_than_a_step_carries() -> None:
    transformer = model(2)
    ours = CudaRunner(config(max_batch=2, max_context=GRANTS * 16), transformer)
    ours.start(GRANTS)
    many = tuple((row, index, (row + index) % GRANTS) for row in (0, 1) for index in range(GRANTS - 10))
    assert ours.collect(ours.launch(Plan(0, grants=many))) == {}
    assert ours._rows.tables[:2, : GRANTS - 10].tolist() == [
        [(row + index) % GRANTS for index in range(GRANTS - 10)] for row in (0, 1)
    ]


def test_logits_that_are_no_numbers() -> None:
    transformer = model(2)
    with torch.no_grad():
        transformer.tok_embeddings.weight[7] = torch.nan
    ours = CudaRunner(config(), transformer)
    ours.start(PAGES)
    start = Plan(0, (RowSetup(0, 0.5, 0.9, 3),), grants(0, 0, 1), (Chunk(0, 0, (3, 7), True),))
    assert ours.collect(ours.launch(start)) == {0: -1}


class KeptAttend(PagedAttend):
    """Attention that reads what a narrow cache would give back."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return super().__call__(layer, q, kept(k, torch.int8), kept(v, torch.int8))


@pytest.mark.parametrize(("quantize", "kv_dtype", "kv_heads"), [("int8", "auto", 1), ("int4", "int8", 2)])
def test_narrow_weights_and_caches(
    kv_heads: int, quantize: str, kv_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of plain torch with the same packed weights, and keys and values that went through 8 bits."""
    if kv_dtype == "int8":
        monkeypatch.setattr("engine.runner.torch_runner.PagedAttend", KeptAttend)
    transformer = model(kv_heads)
    for block in transformer.blocks:
        if quantize != "none":
            pack_block(block, int(quantize[3:]))
    plain = TorchRunner(config(), transformer, PAGES)
    ours = CudaRunner(config(quantize=quantize, kv_dtype=kv_dtype), transformer)
    ours.start(PAGES)
    for plan in plans()[:8]:
        assert ours.collect(ours.launch(plan)) == plain.collect(plain.launch(plan))
    ours.close()


@pytest.mark.parametrize(
    ("rows", "chunk", "burst"), [(32, 480, 2016), (1, 64, 0), (5, 40, 0), (100, 256, 0), (49, 15, 0), (120, 8, 0)]
)
def test_a_size_for_every_plan(rows: int, chunk: int, burst: int) -> None:
    found = sizes(config(max_batch=rows, chunk=chunk, burst=burst))
    assert max(size.slots for size in found if not size.tokens) == rows
    assert max(size.tokens for size in found if size.slots == rows) >= max(chunk, burst)
    assert max(size.tokens for size in found if not size.slots) >= max(chunk, burst + rows if burst else 0)
    assert len(set(found)) == len(found)
