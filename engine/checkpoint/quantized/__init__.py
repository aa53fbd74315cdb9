"""Weights that Hugging Face folders hold in fewer bits: GPTQ, AWQ, FP8 and compressed-tensors.

`read_method` reads what config.json says of them, `find_matrices` finds the tensors that make up each matrix, and a
`QuantizedMatrix` decodes any rectangle of it, so that a rank reads its shard and no second copy of the model exists.
"""

from engine.checkpoint.quantized.matrix import QuantizedMatrix
from engine.checkpoint.quantized.method import Method, read_method, read_own_file
from engine.checkpoint.quantized.modules import find_matrices

__all__ = ["Method", "QuantizedMatrix", "find_matrices", "read_method", "read_own_file"]
