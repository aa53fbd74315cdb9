"""What config.json says of quantized weights: the method, and the schemes that its matrices may have.

A file may mix schemes. Which one a matrix has is told by its tensors' shapes (`modules`), so the patterns of names that
such files carry are not evaluated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.checkpoint.files import ConfigReader, read_json
from engine.checkpoint.quantized.compressed import read_compressed
from engine.checkpoint.quantized.scheme import Scheme
from engine.errors import ConfigError

MethodName = Literal["gptq", "awq", "fp8", "fbgemm_fp8", "compressed-tensors"]
_BITS = (4, 8)
# Older folders have the settings in a file of their own, and nothing in config.json.
_OWN_FILES: Mapping[str, MethodName] = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


@dataclass(frozen=True, slots=True)
class Method:
    """`schemes` are those that matrices may have. `zero_offset`: see `GroupedLayout`."""

    name: MethodName
    schemes: tuple[Scheme, ...]
    zero_offset: int = 0
    needs_groups_of: bool = False  # act-order: a matrix without g_idx cannot be read

    def __str__(self) -> str:
        """As `ModelSpec.quantization` has it: "int4 in groups of 128 (gptq)"."""
        return f"{' or '.join(str(scheme) for scheme in self.schemes)} ({self.name})"

    @property
    def grouped(self) -> bool:
        """Whether tensors have GPTQ's and AWQ's names."""
        return self.name in ("gptq", "awq")


def read_method(config: ConfigReader) -> Method | None:
    """The method in config.json, None if weights are plain; ConfigError for one that the engine cannot decode."""
    section = config.section("quantization_config") or config.section("compression_config")
    if section is None:
        return None
    name = section.text("quant_method")
    if name is None and section.has("config_groups"):  # as its files of 2024
        name = "compressed-tensors"
    return _read(section, name)


def read_own_file(folder: Path, names: Iterable[str]) -> Method | None:
    """The method in a file beside config.json, if the tensors' names are those of GPTQ or AWQ."""
    if not any(name.endswith(".qweight") for name in names):
        return None
    for file, name in _OWN_FILES.items():
        if (folder / file).exists():
            return _read(ConfigReader(folder / file, read_json(folder / file)), name)
    return None


def _read(section: ConfigReader, name: str | None) -> Method:
    match name:
        case "gptq":
            return _gptq(section)
        case "awq":
            return _awq(section)
        case "fp8" | "fbgemm_fp8":
            return Method(name, _fp8(section))
        case "compressed-tensors":
            return Method(name, read_compressed(section))
    raise _refused(section.source, f"a quantization_config of {name or 'no method'}")


def _refused(source: Path, found: str) -> ConfigError:
    expected = (
        "weights in float32, float16 or bfloat16, GPTQ or compressed-tensors in 4 or 8 bits, AWQ in 4 bits, FP8, "
        "or a GGUF file of the model"
    )
    return ConfigError(source, expected=expected, found=found)


def _gptq(section: ConfigReader) -> Method:
    formats = {section.text(key) for key in ("checkpoint_format", "format")} - {None}
    if section.flag("is_marlin_format"):
        formats.add("marlin")
    for each in sorted(str(name) for name in formats - {"gptq", "gptq_v2"}):
        raise _refused(section.source, f"GPTQ weights in the format {each:.40}")
    settings = [section.values]
    dynamic = section.section("dynamic")
    # Matrices of other names may have other settings, or none ("-:"), and then they are plain.
    for name, override in (dynamic.values if dynamic else {}).items():
        if not name.startswith("-:") and isinstance(override, dict):
            settings.append({**section.values, **override})
    schemes = [_gptq_scheme(ConfigReader(section.source, values)) for values in settings]
    return Method(
        "gptq",
        tuple(dict.fromkeys(schemes)),
        zero_offset=0 if "gptq_v2" in formats else 1,
        needs_groups_of=section.flag("desc_act"),
    )


def _gptq_scheme(settings: ConfigReader) -> Scheme:
    bits = settings.integer("bits")
    if bits not in _BITS:
        raise settings.invalid("bits", "4 or 8 in GPTQ weights")
    return Scheme("words", bits, _group(settings, "group_size"), rows=1)


def _awq(section: ConfigReader) -> Method:
    version = (section.text("version") or section.text("format") or "gemm").lower()
    if version != "gemm":
        raise _refused(section.source, f"AWQ weights in the format {version:.40}")
    bits = "w_bit" if section.has("w_bit") else "bits"
    if section.integer(bits) != 4:
        raise section.invalid(bits, "4 in AWQ weights")
    if not section.flag("zero_point", True):
        raise _refused(section.source, "AWQ weights without zero points")
    group = "q_group_size" if section.has("q_group_size") else "group_size"
    return Method("awq", (Scheme("words", 4, _group(section, group), rows=1),))


def _group(settings: ConfigReader, key: str) -> int:
    """The inputs of a group, 0 for all."""
    size = settings.integer(key, minimum=-1)
    if size == 0:
        raise settings.invalid(key, "at least 1, or -1 for one group")
    return max(size, 0)


def _fp8(section: ConfigReader) -> tuple[Scheme, ...]:
    if section.text("expert_dtype") not in (None, "fp8"):
        raise section.invalid("expert_dtype", "fp8")
    block = section.values.get("weight_block_size")
    if block is None:
        return Scheme("float8", 8), Scheme("float8", 8, rows=1)  # a scale for the matrix, or for each row
    match block:
        case [int(rows), int(cols)] if rows > 0 and cols > 0:
            return (Scheme("float8", 8, cols, rows),)
    raise section.invalid("weight_block_size", "two positive numbers")
