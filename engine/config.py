"""What an engine is built with: one frozen object, the same on every rank but for the rank itself.

`resolve` turns a user's wishes (many of them "auto") and a model's facts into concrete values. It reads the machine
and the launcher's environment, and changes nothing on either.
"""

import os
from dataclasses import dataclass
from typing import Final

import torch

from engine.checkpoint import ModelSpec
from engine.errors import ConfigError
from engine.layers.cpu_linear import has_fast_int4, has_fast_int8

PAGE_SIZE: Final = 16
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZE: Final = ("auto", "none", "int8", "int4")
KV_DTYPES: Final = ("auto", "fp8", "int8")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    device: torch.device
    dtype: torch.dtype
    max_num_seqs: int  # rows of the persistent batch
    max_context: int  # tokens of a request, prompt and reply together
    max_prefill_tokens: int  # prompt tokens that may join one step
    burst_prefill_tokens: int = (
        0  # prompt tokens of a step when nobody decodes, or now and then; 0: never more than `chunk`
    )
    page_size: int = PAGE_SIZE
    num_kv_pages: int | None = None  # None: as many as memory allows
    quantize: str = "none"
    kv_dtype: str = "auto"  # auto: as `dtype`
    max_waiting: int = 256  # requests that may wait beyond those that run
    world_size: int = 1
    rank: int = 0
    local_rank: int = 0
    num_threads: int = 1  # CPU threads of this rank
    native: bool = False  # packed weights are computed by our own compiled code, where it can be had
    seed: int | None = None  # of requests that bring none; None: fresh randomness
    overlap: bool = False  # launch step n + 1 before the ids of step n are read
    cuda_graphs: bool = True  # CUDA graphs, where the runner has them
    share_gpu: bool = False  # ranks may share a GPU, over gloo: a correctness check, never fast
    heartbeat: float = 2.0  # seconds between signs of life from rank 0; 0: none
    group_timeout: float = 60.0  # seconds of silence after which a rank gives the others up
    step_timeout: float = 7.0  # a step that takes longer (and longer than 5 warm-up steps) means a hung rank
    exit_on_failure: bool = True  # a failed step ends the process, so that the launcher starts a fresh group

    @property
    def max_pages_per_seq(self) -> int:
        return -(-self.max_context // self.page_size)


def resolve(
    spec: ModelSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_num_seqs: int | None = None,
    max_context: int | None = None,
    max_prefill_tokens: int | None = None,
    num_kv_pages: int | None = None,
    quantize: str = "auto",
    kv_dtype: str = "auto",
    max_waiting: int = 256,
    seed: int | None = None,
    share_gpu: bool = False,
) -> EngineConfig:
    """Concrete values for this machine, this model and this rank; the rank comes from torchrun's environment."""
    world_size, rank = _env_int("WORLD_SIZE", 1), _env_int("RANK", 0)
    local_rank = _env_int("LOCAL_RANK", rank)
    chosen = _device(device, local_rank, share_gpu)
    on_gpu = chosen.type == "cuda"
    _check_kv_dtype(kv_dtype, chosen)
    if max_context is not None and not 1 < max_context <= spec.max_context:
        raise ConfigError("--max-seq-len", expected=f"2 to {spec.max_context} (the model's)", found=str(max_context))
    rows = _at_least_one("--max-batch", max_num_seqs, 32 if on_gpu else 8)
    # On a GPU a step costs by the round total of its tokens.
    usual = max(64, 512 - rows) if on_gpu else 64
    return EngineConfig(
        device=chosen,
        dtype=_dtype(dtype, spec, on_gpu),
        max_num_seqs=rows,
        max_context=max_context or spec.max_context,
        max_prefill_tokens=_at_least_one("--chunk", max_prefill_tokens, usual),
        burst_prefill_tokens=1024 - rows if on_gpu and max_prefill_tokens is None and rows <= 512 else 0,
        num_kv_pages=num_kv_pages,
        quantize=_quantize(quantize, spec, on_gpu, dtype),
        kv_dtype=kv_dtype,
        max_waiting=max_waiting,
        world_size=world_size,
        rank=rank,
        local_rank=local_rank,
        num_threads=_threads(1 if on_gpu else world_size),
        native=not on_gpu and bool(_env_int("GUILDLLAMA_NATIVE", 1)),
        seed=seed,
        overlap=on_gpu,
        share_gpu=share_gpu,
    )


def _device(wish: str, local_rank: int, share_gpu: bool) -> torch.device:
    if wish not in ("auto", "cpu", "cuda"):
        raise ConfigError("--device", expected="auto, cpu or cuda", found=wish)
    gpus = torch.cuda.device_count() if wish != "cpu" else 0
    if gpus == 0:
        if wish == "cuda":
            raise ConfigError("--device", expected="a CUDA GPU", found="none that PyTorch can use")
        return torch.device("cpu")
    ranks = max(local_rank + 1, _env_int("LOCAL_WORLD_SIZE", 1))  # every rank sees what is wrong, rank 0 too
    if ranks > gpus and not share_gpu:
        raise ConfigError("--nproc-per-node", expected=f"at most {gpus}, one rank for each GPU", found=str(ranks))
    return torch.device("cuda", local_rank % gpus)


def _dtype(wish: str, spec: ModelSpec, on_gpu: bool) -> torch.dtype:
    if wish == "auto":
        # On a CPU, 32-bit products are the fast ones; on a GPU a 32-bit checkpoint is better served at half the bytes.
        if not on_gpu:
            return torch.float32
        return spec.dtype if spec.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    if wish not in DTYPES:
        raise ConfigError("--dtype", expected=f"auto, {', '.join(DTYPES)}", found=wish)
    return DTYPES[wish]


def _quantize(wish: str, spec: ModelSpec, on_gpu: bool, dtype: str) -> str:
    """auto: float weights are computed as they are; a CPU keeps about as many bits as the file has."""
    if _one_of("--quantize", wish, QUANTIZE) != "auto":
        return wish
    if spec.quantization is None or on_gpu or dtype != "auto":
        return "none"
    if spec.quantization.startswith("Q4") and has_fast_int4():  # most of its matrices
        return "int4"
    return "int8" if has_fast_int8() else "none"


def _check_kv_dtype(wish: str, device: torch.device) -> None:
    _one_of("--kv-dtype", wish, KV_DTYPES)
    if wish != "auto" and device.type != "cuda":
        raise ConfigError("--kv-dtype", expected="auto on a CPU", found=wish)
    if wish == "fp8" and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise ConfigError("--kv-dtype", expected=f"auto or int8: the {name} has no arithmetic for fp8", found=wish)


def _threads(ranks: int) -> int:
    """One core is left to the server and the bot; the ranks of this machine share the others."""
    for name in ("GUILDLLAMA_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name):
            return max(1, _env_int(name, 1))
    return max(1, (len(os.sched_getaffinity(0)) - 1) // ranks)


def _env_int(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(name, expected="a whole number", found=repr(text)) from None


def _at_least_one(name: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise ConfigError(name, expected="at least 1", found=str(value))
    return value or default


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ConfigError(name, expected=f"one of {', '.join(allowed)}", found=value)
    return value
