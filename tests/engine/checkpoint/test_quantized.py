"""Quantized Hugging Face folders: every weight, shard and logit equals those of the weights that they stand for."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.checkpoint import Checkpoint, open_checkpoint, tensor_shapes
from engine.checkpoint.quantized import matrix
from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.model.loader import load_model
from engine.server.inspect_checkpoint import report
from tests.engine.checkpoint import quantized_forms as q
from tests.engine.checkpoint.builders import hf_tensors, logits, read_all, weights
from tests.engine.distributed.world import World

IDS = [1, 5, 300, 17, 44, 9]


@pytest.fixture(scope="module", params=q.FORMS)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    quantized, plain = q.write(tmp_path_factory.mktemp("form"), q.FORMS[request.param])
    return request.param, quantized, plain


def equal(mine: Checkpoint, theirs: Checkpoint, dtype: torch.dtype) -> None:
    expected = read_all(theirs, dtype)
    for name, tensor in read_all(mine, dtype).items():
        assert torch.equal(tensor, expected[name]), name


def test_weights_and_logits_equal_those_of_the_plain_folder(
    folders: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, quantized, plain = folders
    mine, theirs = open_checkpoint(quantized), open_checkpoint(plain)
    assert (mine.spec.quantization or "").startswith(q.FORMS[name].stored_as)
    assert 4 <= (mine.spec.stored_bits or 0) < 14
    equal(mine, theirs, torch.float32)
    equal(mine, theirs, torch.bfloat16)
    assert torch.equal(logits(mine, IDS), logits(theirs, IDS))
    monkeypatch.setattr(matrix, "_CHUNK_WEIGHTS", 1)  # as matrices of many chunks are read
    equal(mine, theirs, torch.float32)


def test_any_slice_equals_that_of_the_whole(folders: tuple[str, Path, Path]) -> None:
    _, quantized, plain = folders
    mine, whole = open_checkpoint(quantized), read_all(open_checkpoint(plain))
    for name, shape in tensor_shapes(mine.spec).items():
        for dim in range(len(shape)):
            for start, count in ((0, 1), (shape[dim] // 2, shape[dim] // 2), (5, 17)):
                out = torch.empty([count if d == dim else size for d, size in enumerate(shape)])
                mine.copy_into(name, out, dim=dim, start=start)
                assert torch.equal(out, whole[name].narrow(dim, start, count)), (name, dim, start)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_two_ranks_loads_what_it_loads_of_the_plain_folder(folders: tuple[str, Path, Path], rank: int) -> None:
    _, quantized, plain = folders
    config = EngineConfig(
        torch.device("cpu"), torch.float32, max_num_seqs=1, max_context=8, max_prefill_tokens=8, rank=rank, world_size=2
    )
    mine, theirs = (load_model(config, open_checkpoint(folder)).state_dict() for folder in (quantized, plain))
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_two_ranks_say_what_they_say_with_the_plain_folder(tmp_path: Path) -> None:
    forms = ("gptq act-order", "awq", "fp8 blocks", "ct packed zero points")
    pairs = [q.write(tmp_path / form, q.FORMS[form]) for form in forms]
    arguments = {"max_context": 64, "prompts": [IDS], "quantize": "none"}
    models = [{"model": str(path), **arguments} for pair in pairs for path in pair]
    out, first = tmp_path / "out", str(pairs[0][0])
    with World(2, "families", model=first, models=models, length=8, out=str(out)) as world:
        assert world.codes(240) == [0, 0], world.said
    for rank in range(2):
        replies = json.loads(out.with_suffix(f".{rank}.json").read_text())
        with np.load(out.with_suffix(f".{rank}.npz")) as found:
            for number in range(0, len(models), 2):
                assert np.array_equal(found[f"arr_{number}"], found[f"arr_{number + 1}"])
                assert replies[number] == replies[number + 1]


def fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As Phi-3's files have them."""
    for n in range(q.TINY.n_layers):
        at = f"model.layers.{n}"
        qkv = [tensors.pop(f"{at}.self_attn.{part}_proj.weight") for part in "qkv"]
        tensors[f"{at}.self_attn.qkv_proj.weight"] = torch.cat(qkv)
        gate_up = [tensors.pop(f"{at}.mlp.{part}_proj.weight") for part in ("gate", "up")]
        tensors[f"{at}.mlp.gate_up_proj.weight"] = torch.cat(gate_up)
    return tensors


@pytest.mark.parametrize("form", ["gptq act-order", "awq", "fp8 blocks", "ct packed zero points"])
def test_fused_matrices_are_taken_apart(tmp_path: Path, form: str) -> None:
    tensors = fused(hf_tensors(weights(q.TINY, dtype=torch.bfloat16), q.TINY))
    config = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"}
    quantized, plain = q.write(tmp_path, q.FORMS[form], tensors=tensors, config=config)
    equal(open_checkpoint(quantized), open_checkpoint(plain), torch.float32)


def test_matrices_of_one_file_may_have_different_schemes(tmp_path: Path) -> None:
    few, many = q.gptq(4, 32), q.gptq(8, 16, symmetric=False)
    form = q.Form(
        q.FORMS["gptq"].config | {"dynamic": {"+:.*down.*": {"bits": 8, "group_size": 16}, "-:.*o_proj": {}}},
        lambda w, generator: (many if w.shape[1] == q.TINY.ffn_dim else few)(w, generator),
        "",
        kept=("lm_head", "embed_tokens", "o_proj"),
    )
    quantized, plain = q.write(tmp_path, form)
    mine = open_checkpoint(quantized)
    equal(mine, open_checkpoint(plain), torch.float32)
    assert mine.spec.quantization == "int4 in groups of 32 or int8 in groups of 16 (gptq)"


def test_biases_of_zeros_are_left_out_and_others_refused(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.bias"
    quantized, plain = q.write(
        tmp_path / "a", q.FORMS["gptq"], change=lambda t: t.update({name: torch.zeros(96, dtype=torch.float16)})
    )
    equal(open_checkpoint(quantized), open_checkpoint(plain), torch.float32)
    refuse(tmp_path / "b", "gptq", lambda t: t.update({name: torch.ones(96)}), "feed_forward.w3.bias besides")


@pytest.mark.parametrize(("form", "file"), [("gptq", "quantize_config.json"), ("awq", "quant_config.json")])
def test_older_folders_have_the_settings_in_a_file_of_their_own(tmp_path: Path, form: str, file: str) -> None:
    quantized, plain = q.write(tmp_path, q.FORMS[form])
    config = json.loads((quantized / "config.json").read_text())
    (quantized / file).write_text(json.dumps(config.pop("quantization_config")))
    (quantized / "config.json").write_text(json.dumps(config))
    equal(open_checkpoint(quantized), open_checkpoint(plain), torch.float32)


def test_inspect_names_bits_and_method(tmp_path: Path) -> None:
    quantized, _ = q.write(tmp_path, q.FORMS["gptq"])
    assert re.search(r"stored as int4 in groups of 32 \(gptq\), \d+(\.\d+)? bits each", report(quantized))


# Bad input

UP = "model.layers.1.mlp.up_proj"


def refuse(
    path: Path, form: str, change: Callable[[dict[str, Tensor]], object], problem: str, **config: object
) -> None:
    """Refused in one line, at the latest when it is loaded."""
    base = q.FORMS[form]
    quantized, _ = q.write(path, q.Form(base.config | config, base.pack, ""), change=change)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_all(open_checkpoint(quantized))
    assert "\n" not in str(caught.value)


def put(kind: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    return lambda t: t.update({f"{UP}.{kind}": make(t[f"{UP}.{kind}"]).contiguous()})


def drop(kind: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda t: t.pop(f"{UP}.{kind}")


def fill(value: float) -> Callable[[Tensor], Tensor]:
    return lambda t: t.float().fill_(value).to(t.dtype)


@pytest.mark.parametrize(
    ("form", "change", "problem"),
    [
        ("gptq", drop("scales"), r"the tensor .*up_proj\.scales; found none"),
        ("gptq", drop("qzeros"), r"the tensor .*up_proj\.qzeros; found none"),
        ("gptq", drop("qweight"), r"the tensor .*up_proj\.qweight; found none"),
        ("gptq act-order", drop("g_idx"), r"the tensor .*up_proj\.g_idx; found none"),
        ("gptq", put("scales", lambda t: t[:1]), r"up_proj\.scales of shape \[2, 96\]; found \[1, 96\]"),
        ("gptq", put("qzeros", lambda t: t[:, :5]), r"up_proj\.qzeros of shape \[2, 12\]; found \[2, 5\]"),
        ("gptq", put("qweight", lambda t: t[:, :7]), r"up_proj\.qweight of shape \[8, 96\]"),
        ("gptq", put("qweight", lambda t: t.long()), r"up_proj\.qweight in I32; found I64"),
        ("gptq", put("g_idx", lambda t: t + 1), r"up_proj\.g_idx with groups 0 to 1; found group 2"),
        ("gptq", put("g_idx", lambda t: t - 1), r"up_proj\.g_idx with groups 0 to 1; found group -1"),
        ("gptq", put("g_idx", lambda t: t[:-1]), r"up_proj\.g_idx of the 64 inputs .* 4 bits; found one of 63"),
        (
            "gptq",
            put("scales", fill(float("nan"))),
            r"finite weights; found NaN or infinity in layers\.1\.feed_forward\.w3",
        ),
        ("gptq", lambda t: t.update({f"{UP}.weight": torch.ones(96, 64)}), "up_proj in one form"),
        ("awq", put("scales", fill(float("inf"))), "finite weights"),
        ("awq", put("qweight", lambda t: t[:32]), r"up_proj\.scales of shape \[1, 96\]; found \[2, 96\]"),
        ("fp8 blocks", drop("weight_scale_inv"), r"the tensor .*up_proj\.weight_scale_inv; found none"),
        ("fp8 blocks", put("weight_scale_inv", lambda t: t[:2]), r"weight_scale_inv of shape \[4, 2\]; found \[2, 2\]"),
        ("fp8 blocks", put("weight_scale_inv", fill(float("nan"))), "finite weights"),
        ("fp8 blocks", put("weight", lambda t: t.float()), r"up_proj\.weight in F8_E4M3; found F32"),
        ("ct packed", drop("weight_shape"), r"the tensor .*weight_shape; found none"),
        ("ct packed", put("weight_shape", lambda t: t * 0 - 3), r"weight_shape above 0; found \[-3, -3\]"),
        ("ct packed", put("weight_shape", lambda t: t * (1 << 40)), "weight_packed of shape"),
        ("ct packed", put("weight_scale", lambda t: t[:, :1]), r"weight_scale of shape \[96, 2\]; found \[96, 1\]"),
        ("ct packed", drop("weight_scale"), r"the tensor .*weight_scale; found none"),
        ("ct packed act-order", put("weight_g_idx", lambda t: t * 100), "weight_g_idx with groups 0 to 3; found group"),
        ("ct packed zero points", put("weight_zero_point", lambda t: t[:2]), r"weight_zero_point of shape \[12, 4\]"),
    ],
)
def test_attack_tensors_that_do_not_fit(
    tmp_path: Path, form: str, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    refuse(tmp_path, form, change, problem)


@pytest.mark.parametrize(
    ("form", "config", "problem"),
    [
        ("gptq", {"bits": 3}, "bits to be 4 or 8 in GPTQ weights; found bits = 3"),
        ("gptq", {"bits": 8}, r"g_idx of the \d+ inputs that qweight has in 8 bits; found one of"),
        ("gptq", {"group_size": 40}, "groups that divide the (64|96) of .*; found 40"),
        ("gptq", {"group_size": 0}, "group_size to be"),
        ("gptq", {"group_size": 128}, "groups that divide the (64|96) of .*; found 128"),
        ("gptq", {"checkpoint_format": "marlin"}, "a GGUF file of the model; found GPTQ weights in the format marlin"),
        ("gptq", {"is_marlin_format": True}, "in the format marlin"),
        ("awq", {"bits": 8}, "bits to be 4 in AWQ weights"),
        ("awq", {"version": "gemv_fast"}, "found AWQ weights in the format gemv_fast"),
        ("awq", {"zero_point": False}, "AWQ weights without zero points"),
        ("fp8 blocks", {"weight_block_size": [0, 1]}, "weight_block_size to be two positive numbers"),
        ("fp8 blocks", {"weight_block_size": "big"}, "weight_block_size to be two positive numbers"),
        ("fp8 blocks", {"expert_dtype": "fp4"}, "expert_dtype to be fp8"),
        ("ct packed", {"format": "nvfp4-pack-quantized"}, "found the format nvfp4-pack-quantized"),
        ("ct packed", {"format": None}, "found the format of none"),
        ("ct packed", {"config_groups": {}}, "config_groups to be"),
        ("ct packed", {"config_groups": {"a": {"weights": {"num_bits": 3}}}}, "int of 3 bits"),
        ("ct packed", {"config_groups": {"a": {"weights": {"strategy": "odd"}}}}, "strategy to be tensor"),
        ("ct packed", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "the sparse format sparse-24-bitmask"),
        ("ct packed", {"transform_config": {"config_groups": {"u": {}}}}, "found a transform_config"),
        *((("gptq"), {"quant_method": name}, f"GPTQ.*or a GGUF file of the model; found .* {name}")
          for name in ("bitsandbytes", "hqq", "aqlm", "exl2", "mxfp4", "torchao", "quanto", "eetq", "auto-round")),
        ("gptq", {"quant_method": None}, "a quantization_config of no method"),
    ],
)  # fmt: skip
def test_attack_settings_that_cannot_be_read(
    tmp_path: Path, form: str, config: dict[str, object], problem: str
) -> None:
    refuse(tmp_path, form, lambda _: None, problem, **config)
