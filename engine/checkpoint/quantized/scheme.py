"""In how many bits a matrix is stored, and which of its weights share a scale."""

from dataclasses import dataclass
from typing import Literal

# `words`: packed in 32-bit words, by GPTQ, AWQ or compressed-tensors; the others are a byte each.
CodeKind = Literal["words", "float8", "int8"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """A scale belongs to a block of `rows` outputs and `group` inputs; 0 stands for all of them."""

    kind: CodeKind
    bits: int
    group: int = 0
    rows: int = 0

    def block(self, rows: int, cols: int) -> tuple[int, int]:
        """The rows and columns of a matrix [rows, cols] that share a scale."""
        return self.rows or rows, self.group or cols

    def __str__(self) -> str:
        """Such as "int4 in groups of 128"; `config` reads its beginning."""
        name = "float8" if self.kind == "float8" else f"int{self.bits}"
        if self.rows > 1 and self.group:
            return f"{name} in blocks of {self.rows} x {self.group}"
        if self.group:
            return f"{name} in groups of {self.group}"
        return f"{name} with a scale for each {'row' if self.rows else 'matrix'}"
