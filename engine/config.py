"""The engine's configuration: one frozen object, equal on all ranks except for the fields that name the rank.

`resolve` turns the user's options, many of them "auto", and the model's spec into concrete values. It looks at the
machine and reads the launcher's environment variables, and changes neither. Rows and context that the user left open
are upper bounds at first; `engine.runner.memory.fit_limits` lowers them once the weights are loaded.
"""

import os
from dataclasses import dataclass
from typing import Final

import torch

from engine.checkpoint import ModelSpec
from engine.errors import ConfigError
from engine.kv_store.settings import StoreSettings
from engine.layers.cpu_linear import has_fast_int4, has_fast_int8

PAGE_SIZE: Final = 16
MAX_GPU_ROWS: Final = 256  # unless the user asks for more
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZE: Final = ("auto", "none", "int8", "fp8", "int4")
SPECULATE: Final = ("auto", "ngram", "off")
KV_DTYPES: Final = ("auto", "fp8", "int8")
_UP_TO_4_BITS: Final = ("Q4_", "IQ4_", "MXFP4", "Q2_", "Q3_", "int4")  # files' bits that int4 stands in for


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Concrete values, none of them "auto" except `kv_dtype` and `speculate`. Times are in seconds."""

    device: torch.device
    dtype: torch.dtype
    max_num_seqs: int  # rows of the persistent batch
    max_context: int  # tokens of a request, prompt and reply together
    max_prefill_tokens: int  # prompt tokens of an ordinary step
    burst_prefill_tokens: int = 0  # of a step without decoding rows, or of a rare one; 0: `max_prefill_tokens`
    counts_rows: bool = False  # the two limits above are of all tokens of a step, decoding rows included
    fits_rows: bool = False  # lower `max_num_seqs` to what memory allows
    fits_context: bool = False  # lower `max_context` to what memory allows
    page_size: int = PAGE_SIZE
    num_kv_pages: int | None = None  # None: as many as fit into free memory
    num_host_slots: int | None = None  # pages that each rank keeps in the host's memory; None: a share of what is free
    quantize: str = "none"
    kv_dtype: str = "auto"  # auto: the same as `dtype`
    speculate: str = "auto"  # drafts of next tokens; auto: where the ids are certainly the same as without
    max_waiting: int = 256  # requests that may wait, besides those that run
    world_size: int = 1
    rank: int = 0
    local_rank: int = 0
    num_threads: int = 1  # CPU threads of this rank
    native: bool = False  # CPU: use our compiled code for quantized weights, if it can be built
    seed: int | None = None  # of the generator of seeds for requests without one; None: not reproducible
    overlap: bool = False  # launch step n + 1 before reading the ids of step n
    cuda_graphs: bool = True  # for runners that can use them
    share_gpu: bool = False  # let ranks share a GPU and use gloo: slow, for correctness checks only
    heartbeat: float = 2.0  # seconds between the heartbeats that rank 0 sends; 0: none
    group_timeout: float = 60.0  # seconds that a rank waits in a collective for the others
    step_timeout: float = 7.0  # seconds; a longer step means a hung rank, if it also exceeds 5 slowest warm-up steps
    kv_store: StoreSettings | None = None  # files in which cached pages outlive the engine
    exit_on_failure: bool = True  # end the process after a failed step, so that the launcher starts a fresh group

    @property
    def max_pages_per_seq(self) -> int:
        """Pages of a sequence of `max_context` tokens."""
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
    speculate: str = "auto",
    max_waiting: int = 256,
    seed: int | None = None,
    share_gpu: bool = False,
) -> EngineConfig:
    """Concrete values for this machine, this model and this rank, which torchrun's environment variables name.

    Raises ConfigError, naming the command-line flag or environment variable, for a value that cannot work.
    """
    world_size, rank = _env_int("WORLD_SIZE", 1), _env_int("RANK", 0)
    local_rank = _env_int("LOCAL_RANK", rank)
    torch_device = _device(device, local_rank, share_gpu)
    on_gpu = torch_device.type == "cuda"
    _check_kv_dtype(kv_dtype, torch_device)
    if _one_of("--quantize", quantize, QUANTIZE) == "fp8":
        _check_fp8("--quantize", torch_device, instead="auto, none, int8 or int4")
    if _one_of("--speculate", speculate, SPECULATE) == "ngram" and on_gpu:
        raise ConfigError("--speculate", expected="auto or off on a GPU, which verifies no drafts yet", found=speculate)
    if max_context is not None and not 1 < max_context <= spec.max_context:
        raise ConfigError("--max-seq-len", expected=f"2 to {spec.max_context} (the model's)", found=str(max_context))
    rows = _at_least_one("--max-batch", max_num_seqs, MAX_GPU_ROWS if on_gpu else 8)
    # On a GPU the time of a step depends on all its tokens, decoding rows included: keep the total a round number.
    counts_rows = on_gpu and max_prefill_tokens is None and rows <= MAX_GPU_ROWS
    return EngineConfig(
        device=torch_device,
        dtype=_dtype(dtype, spec, on_gpu),
        max_num_seqs=rows,
        max_context=max_context or spec.max_context,
        max_prefill_tokens=_at_least_one("--chunk", max_prefill_tokens, 512 if on_gpu else 64),
        burst_prefill_tokens=1024 if counts_rows else 0,
        counts_rows=counts_rows,
        fits_rows=on_gpu and max_num_seqs is None,
        fits_context=max_context is None,
        num_kv_pages=num_kv_pages,
        quantize=_quantize(quantize, spec, on_gpu, dtype),
        kv_dtype=kv_dtype,
        speculate=speculate,
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


def _device(choice: str, local_rank: int, share_gpu: bool) -> torch.device:
    if choice not in ("auto", "cpu", "cuda"):
        raise ConfigError("--device", expected="auto, cpu or cuda", found=choice)
    gpus = torch.cuda.device_count() if choice != "cpu" else 0
    if gpus == 0:
        if choice == "cuda":
            raise ConfigError("--device", expected="a CUDA GPU", found="none that PyTorch can use")
        return torch.device("cpu")
    ranks = max(local_rank + 1, _env_int("LOCAL_WORLD_SIZE", 1))  # so that every rank refuses, not just the last ones
    if ranks > gpus and not share_gpu:
        raise ConfigError("--nproc-per-node", expected=f"at most {gpus}, one rank for each GPU", found=str(ranks))
    return torch.device("cuda", local_rank % gpus)


def _dtype(choice: str, spec: ModelSpec, on_gpu: bool) -> torch.dtype:
    if choice == "auto":
        return default_dtype(spec, on_gpu=on_gpu)
    if choice not in DTYPES:
        raise ConfigError("--dtype", expected=f"auto, {', '.join(DTYPES)}", found=choice)
    return DTYPES[choice]


def default_dtype(spec: ModelSpec, *, on_gpu: bool) -> torch.dtype:
    """On a CPU float32, which is the fastest; on a GPU the checkpoint's 16 bits, or bfloat16 in place of wider ones."""
    if not on_gpu:
        return torch.float32
    return spec.dtype if spec.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16


def _quantize(choice: str, spec: ModelSpec, on_gpu: bool, dtype: str) -> str:
    """auto: `default_quantize`, unless a dtype was chosen."""
    if choice != "auto":
        return choice
    return default_quantize(spec, on_gpu=on_gpu) if dtype == "auto" else "none"


def default_quantize(spec: ModelSpec, *, on_gpu: bool) -> str:
    """About the bits per weight of a quantized checkpoint, if the device computes with them; else none."""
    if spec.quantization is None:
        return "none"
    if spec.quantization.startswith(_UP_TO_4_BITS) and (on_gpu or has_fast_int4()):
        return "int4"
    return "int8" if on_gpu or has_fast_int8() else "none"


def _check_kv_dtype(choice: str, device: torch.device) -> None:
    _one_of("--kv-dtype", choice, KV_DTYPES)
    if choice != "auto" and device.type != "cuda":
        raise ConfigError("--kv-dtype", expected="auto on a CPU", found=choice)
    if choice == "fp8":
        _check_fp8("--kv-dtype", device, instead="auto or int8")


def _check_fp8(flag: str, device: torch.device, *, instead: str) -> None:
    """ConfigError where there is no arithmetic for fp8: on a CPU, and on GPUs before Ada."""
    if device.type != "cuda":
        raise ConfigError(flag, expected=f"{instead}: a CPU has no arithmetic for fp8", found="fp8")
    if torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(flag, expected=f"{instead}: the {name} has no arithmetic for fp8", found="fp8")


def _threads(ranks: int) -> int:
    """One core is left to the server and the bot; the `ranks` of this machine share the others."""
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
