"""The settings of compressed-tensors: groups of layers, each with a scheme for its weights.

Schemes for activations and for keys and values are left out: the engine computes those in its own dtypes.
"""

from engine.checkpoint.files import ConfigReader
from engine.checkpoint.quantized.scheme import Scheme
from engine.errors import ConfigError

_READABLE = (
    "compressed-tensors weights of float-quantized, int-quantized or pack-quantized, in int4, int8 or float8, "
    "or a GGUF file of the model"
)
_FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")


def read_compressed(section: ConfigReader) -> tuple[Scheme, ...]:
    """The schemes of a quantization_config, each once; ConfigError for one that the engine cannot decode."""
    sparsity = section.section("sparsity_config")
    if sparsity is not None and sparsity.text("format") not in (None, "dense"):
        raise ConfigError(section.source, expected=_READABLE, found=f"the sparse format {sparsity.text('format'):.40}")
    transforms = section.section("transform_config")
    if transforms is not None and transforms.values.get("config_groups"):
        raise ConfigError(section.source, expected=_READABLE, found="a transform_config")
    groups = section.section("config_groups")
    schemes: list[Scheme] = []
    for key in groups.values if groups else ():
        group = groups.section(key) if groups else None
        weights = group.section("weights") if group else None
        if group is not None and weights is not None:
            schemes.append(_scheme(weights, group.text("format") or section.text("format")))
    if not schemes:
        raise section.invalid("config_groups", "groups of layers with a scheme for their weights")
    return tuple(dict.fromkeys(schemes))


def _scheme(weights: ConfigReader, form: str | None) -> Scheme:
    kind, bits = weights.text("type") or "int", weights.integer("num_bits", 8)
    if form not in _FORMATS:
        raise ConfigError(weights.source, expected=_READABLE, found=f"the format {form or 'of none':.40}")
    rows, group = _block(weights)
    match form, kind, bits:
        case ("float-quantized" | "naive-quantized", "float", 8):
            return Scheme("float8", 8, group, rows)
        case ("int-quantized" | "naive-quantized", "int", 8):
            return Scheme("int8", 8, group, rows)
        case ("pack-quantized", "int", 4 | 8):
            return Scheme("words", bits, group, rows)
    raise ConfigError(weights.source, expected=_READABLE, found=f"{kind:.20} of {bits} bits as {form}")


def _block(weights: ConfigReader) -> tuple[int, int]:
    """The rows and columns that share a scale; 0 for all of them."""
    size = weights.integer("group_size", -1, minimum=-1)
    strategy = weights.text("strategy") or ("group" if size > 0 else "channel" if size == -1 else "tensor")
    match strategy:
        case "tensor":
            return 0, 0
        case "channel":
            return 1, 0
        case "group" if size > 0:
            return 1, size
        case "block":
            structure = weights.values.get("block_structure")
            if isinstance(structure, str):  # "128x128", as its files of 2024
                structure = [int(part) if part.isdecimal() and len(part) < 9 else 0 for part in structure.split("x")]
            match structure:
                case [int(rows), int(cols)] if rows > 0 and cols > 0:
                    return rows, cols
            raise weights.invalid("block_structure", "two positive numbers")
    if strategy == "group":
        raise weights.invalid("group_size", "a positive number")
    raise weights.invalid("strategy", "tensor, channel, group or block")
