"""Biases that quantizers wrote for every matrix, also in families that have none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from engine.checkpoint.reading import Extent
from engine.checkpoint.spec import ModelSpec, tensor_shapes

_T = TypeVar("_T")


def without_zero_biases(spec: ModelSpec, found: Mapping[str, _T]) -> dict[str, _T]:
    """`found`, by our names, without biases of zeros that the model of a quantized file does not have."""
    kept = dict(found)
    if spec.quantization is None:
        return kept
    layer = {name.removeprefix("layers.0.") for name in tensor_shapes(replace(spec, n_layers=1))}
    for name, extent in found.items():
        is_extra = name.startswith("layers.") and name.endswith(".bias") and name.split(".", 2)[2] not in layer
        if is_extra and isinstance(extent, Extent) and _is_zero(extent):
            del kept[name]
    return kept


def _is_zero(extent: Extent) -> bool:
    return not np.fromfile(extent.path, np.uint8, extent.rows * extent.row_bytes, offset=extent.offset).any()
