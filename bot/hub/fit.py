"""How much memory a model needs, where on a machine it fits, and which one is the best for it. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.hub.catalogue import CATALOGUE, CatalogueModel
from bot.hub.machine import Machine

CONTEXT = 8192
"""Positions of the KV cache that are counted: a few members' dialogs at once."""
_BYTES_PER_WEIGHT = {4: 0.62, 8: 1.13, 16: 2.0, 32: 4.0}
"""Average over a model: includes the scales of quantized groups, and tensors that are not quantized."""
_ENGINE_BYTES = 600 << 20
"""Memory of the engine itself: kernels, buffers, the process."""
_SYSTEM_BYTES = 2 << 30
"""Memory that the system, the bot and its database need."""
_GPU_SHARE = 0.92
"""Share of a GPU's memory that the engine can use; the driver and a desktop take the rest."""
CPU_ACTIVE_PER_CORE = 1.1
CPU_ACTIVE = 5.0
"""Billions of active parameters up to which a CPU answers without a long wait. Cores limit the prefill, and memory
bandwidth limits decoding."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a model runs, and with how many bits per weight."""

    place: Literal["GPU", "CPU"]
    bits: int
    gpus: int = 1
    slow: bool = False
    """Whether a member would wait long for a reply."""
    gpus_are_too_small: bool = False
    """Whether the machine has GPUs that the engine would try by default."""

    fewer_bits: bool = False
    """Whether these are fewer bits than the engine would choose by itself: those of the file."""

    @property
    def settings(self) -> str:
        """What must be set beside GUILDLLAMA_MODEL for the engine to run this fit, as text to append to it."""
        quantize = f" GUILDLLAMA_QUANTIZE=int{self.bits}" if self.fewer_bits else ""
        gpus = f" GUILDLLAMA_GPUS={self.gpus}" if self.gpus > 1 else ""
        return quantize + gpus + (" GUILDLLAMA_DEVICE=cpu" if self.gpus_are_too_small else "")


def memory_needed(model: CatalogueModel, bits: int) -> int:
    """Bytes for the weights at `bits` per weight, a KV cache of CONTEXT positions, and the engine."""
    weights = round(model.parameters * 1e9 * _BYTES_PER_WEIGHT[bits])
    return weights + CONTEXT * model.kv_bytes_per_token * (2 if bits == 32 else 1) + _ENGINE_BYTES


def best_fit(model: CatalogueModel, machine: Machine) -> Fit | None:
    """A GPU with the file's bits, else with fewer, else several GPUs, else the CPU; None if nothing fits."""
    count = 1
    while count <= len(machine.gpus):
        usable = min(gpu.memory for gpu in machine.gpus[:count]) * _GPU_SHARE * count
        for bits in (16, 8, 4):
            fits = memory_needed(model, bits) + (count - 1) * _ENGINE_BYTES <= usable
            if bits <= model.stored_bits and fits:
                return Fit("GPU", bits, count, fewer_bits=bits < model.stored_bits)
        count *= 2
    bits = model.stored_bits if model.stored_bits < 16 else 32
    if memory_needed(model, bits) + _SYSTEM_BYTES <= machine.memory:
        slow = model.active_parameters > min(CPU_ACTIVE, CPU_ACTIVE_PER_CORE * machine.cores)
        return Fit("CPU", bits, slow=slow, gpus_are_too_small=bool(machine.gpus))
    return None


def recommended(machine: Machine) -> CatalogueModel | None:
    """The strongest model that fits and answers quickly."""
    for model in reversed(CATALOGUE):
        fit = best_fit(model, machine)
        if fit is not None and not fit.slow:
            return model
    return None
