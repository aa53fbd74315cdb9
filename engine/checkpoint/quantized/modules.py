"""Finds the tensors that make up each quantized matrix, and checks that their shapes are what a scheme says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.checkpoint.encoding import F8_E4M3, F8_E8M0, I8, I32, I64, PLAIN, Encoding
from engine.checkpoint.quantized.bits import WORD
from engine.checkpoint.quantized.grouped import GroupedLayout
from engine.checkpoint.quantized.matrix import Layout, QuantizedMatrix
from engine.checkpoint.quantized.method import Method
from engine.checkpoint.quantized.scaled import ScaledLayout
from engine.checkpoint.quantized.scheme import Scheme
from engine.checkpoint.reading import Extent
from engine.errors import ConfigError

_GROUPED = ("qweight", "qzeros", "scales", "g_idx")
_SCALED = (
    *("weight", "weight_packed", "weight_scale", "weight_scale_inv"),
    *("weight_zero_point", "weight_shape", "weight_g_idx"),
)
# Of activations, keys and values that other engines quantize too.
_UNUSED = (
    *("input_scale", "output_scale", "activation_scale", "input_scale_ub", "input_zero_point", "output_zero_point"),
    *("k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "q_zero_point"),
)
_FLOATS = tuple(PLAIN.values())


def find_matrices(source: Path, method: Method, tensors: Mapping[str, Extent]) -> dict[str, Extent | QuantizedMatrix]:
    """`tensors`, by the files' names, with the parts of each quantized matrix as one under NAME.weight.

    ConfigError naming `source` if there is no such matrix, else naming the file whose tensors are wrong.
    """
    kinds = _GROUPED if method.grouped else _SCALED
    modules: dict[str, dict[str, Extent]] = {}
    found: dict[str, Extent | QuantizedMatrix] = {}
    for name, extent in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind in kinds:
            modules.setdefault(module, {})[kind] = extent
        elif kind not in _UNUSED:
            found[name] = extent
    quantized = 0
    for module, parts in modules.items():
        name = f"{module}.weight"
        if name in found:
            raise ConfigError(found[name].path, expected=f"{module} in one form", found=f"{name} besides")
        if list(parts) == ["weight"] and parts["weight"].encoding in _FLOATS:
            found[name] = parts["weight"]
            continue
        layout = _first_fitting(method, _Module(module, parts))
        found[name] = QuantizedMatrix(layout, layout.rows)
        quantized += 1
    if not quantized:
        raise ConfigError(source, expected=f"quantized weights, as its {method.name} says", found="none")
    return found


@dataclass(frozen=True, slots=True)
class _Module:
    """The tensors of one matrix, by the last part of their names."""

    name: str
    parts: Mapping[str, Extent]

    def take(self, kind: str, *encodings: Encoding) -> Extent:
        """The tensor of this kind; ConfigError if it is absent or of another dtype."""
        extent = self.parts.get(kind)
        if extent is None:
            path = next(iter(self.parts.values())).path
            raise ConfigError(path, expected=f"the tensor {self.name}.{kind}", found="none of that name")
        if extent.encoding not in encodings:
            expected = " or ".join(encoding.name for encoding in encodings)
            raise ConfigError(
                extent.path, expected=f"{self.name}.{kind} in {expected}", found=f"{extent.encoding.name}"
            )
        return extent

    def check(self, kind: str, *shape: int) -> None:
        """ConfigError unless the tensor has this shape; a vector is a matrix of one column."""
        extent = self.parts[kind]
        rows, cols = (*shape, 1)[:2]
        if (extent.rows, extent.cols) != (rows, cols):
            found = f"{[extent.rows, extent.cols]}"
            raise ConfigError(extent.path, expected=f"{self.name}.{kind} of shape {list(shape)}", found=found)

    def divide(self, kind: str, what: str, size: int, by: int) -> int:
        """size / by; ConfigError if `by` does not divide it."""
        if size % by:
            expected = f"{what} that divide the {size} of {self.name}"
            raise ConfigError(self.parts[kind].path, expected=expected, found=f"{by}")
        return size // by


def _first_fitting(method: Method, module: _Module) -> Layout:
    """The layout by the first scheme that the tensors fit; the first scheme's error if they fit none."""
    build: Callable[[Method, Scheme, _Module], Layout] = _grouped if method.grouped else _scaled
    errors: list[ConfigError] = []
    for scheme in method.schemes:
        try:
            return build(method, scheme, module)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _grouped(method: Method, scheme: Scheme, module: _Module) -> GroupedLayout:
    codes, zeros = module.take("qweight", I32), module.take("qzeros", I32)
    scales, awq, per_word = module.take("scales", *_FLOATS), method.name == "awq", WORD // scheme.bits
    rows, cols = scales.cols, codes.rows * (1 if awq else per_word)
    words = module.divide("scales", f"words of {per_word} outputs", rows, per_word)
    groups_of = None
    if "g_idx" in module.parts or method.needs_groups_of:
        groups_of = module.take("g_idx", I32, I64)
        if (groups_of.rows, groups_of.cols) != (cols, 1):
            expected = f"{module.name}.g_idx of the {cols} inputs that qweight has in {scheme.bits} bits"
            raise ConfigError(groups_of.path, expected=expected, found=f"one of {groups_of.rows}")
    groups = module.divide("qweight", "groups", cols, scheme.group) if scheme.group else 1
    module.check("qweight", codes.rows, words if awq else rows)
    module.check("scales", groups, rows)
    module.check("qzeros", groups, words)
    return GroupedLayout(
        codes, zeros, scales, rows, cols, scheme.bits, scheme.group or cols, awq=awq, zero_offset=method.zero_offset,
        groups_of=groups_of, name=f"{module.name}.g_idx",
    )  # fmt: skip


def _scaled(method: Method, scheme: Scheme, module: _Module) -> ScaledLayout:
    inverse = "weight_scale" not in module.parts and method.name == "fp8"  # multiplied all the same
    scale = "weight_scale_inv" if inverse else "weight_scale"
    if scheme.kind == "words":
        codes, per_word = module.take("weight_packed", I32), WORD // scheme.bits
        rows, cols = _stored_shape(module)
        module.check("weight_packed", rows, -(-cols // per_word))
    else:
        codes, per_word = module.take("weight", F8_E4M3 if scheme.kind == "float8" else I8), 0
        rows, cols = codes.rows, codes.cols
    block = scheme.block(rows, cols)
    if scheme.rows == 1 and scheme.group:
        module.divide("weight_packed" if per_word else "weight", "groups", cols, scheme.group)
    grid = -(-rows // block[0]), -(-cols // block[1])
    scales = module.take(scale, *_FLOATS, F8_E8M0)
    module.check(scale, *grid)
    zeros, packed_zeros = module.parts.get("weight_zero_point"), False
    if zeros is not None:
        zeros = module.take("weight_zero_point", I8, I32, *((F8_E4M3, *_FLOATS) if scheme.kind == "float8" else ()))
        packed_zeros = bool(per_word) and zeros.encoding is I32
        module.check("weight_zero_point", -(-grid[0] // per_word) if packed_zeros else grid[0], grid[1])
    groups_of = None
    if "weight_g_idx" in module.parts:
        groups_of = module.take("weight_g_idx", I32, I64)
        module.check("weight_g_idx", cols)
    return ScaledLayout(
        codes, scales, rows, cols, block, packed_bits=scheme.bits if per_word else 0, zeros=zeros,
        packed_zeros=packed_zeros, groups_of=groups_of, name=f"{module.name}.weight_g_idx",
    )  # fmt: skip


def _stored_shape(module: _Module) -> tuple[int, int]:
    """The two numbers in `weight_shape`; the words of a packed row may be padded."""
    extent = module.take("weight_shape", I32, I64)
    module.check("weight_shape", 2)
    dtype = np.dtype("<i8" if extent.encoding is I64 else "<i4")
    numbers = np.fromfile(extent.path, dtype, 2, offset=extent.offset)
    rows, cols = (int(number) for number in numbers)
    if rows < 1 or cols < 1:
        raise ConfigError(extent.path, expected=f"{module.name}.weight_shape above 0", found=f"{[rows, cols]}")
    return rows, cols
