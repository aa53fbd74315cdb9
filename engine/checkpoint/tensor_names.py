"""What readers do with a file's tensors once those have our names: check that none is missing, split fused ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self, TypeVar

from engine.checkpoint.spec import ModelSpec, tensor_shapes
from engine.errors import ConfigError


def check_tensor_names(source: Path, spec: ModelSpec, names: Mapping[str, str]) -> None:
    """ConfigError naming `source` if a tensor of the model is missing, or there is one that the model does not have.

    `names` maps the name of each tensor found, in Meta's form where it has one, to its name in the file.
    """
    # A config may claim any number of layers and experts: refuse more than the file has before their names are made.
    if spec.n_layers * max(1, spec.architecture.experts) > len(names):
        raise ConfigError(source, expected=f"the tensors of {spec.n_layers} layers", found=f"{len(names)} tensors")
    expected = tensor_shapes(spec).keys()
    for name in sorted(expected - names.keys()):
        raise ConfigError(source, expected=f"the tensor {name}", found="none of that name")
    for name in sorted(names.keys() - expected):
        raise ConfigError(
            source, expected=f"the tensors of a {spec.n_layers}-layer {spec.family}", found=f"{names[name]} besides"
        )


def is_rotated(name: str) -> bool:
    """Whether the rows of this tensor are a head's dimensions, which RoPE pairs."""
    return ".attention." in name and name.rpartition(".attention.")[2].startswith(("wq.", "wk.", "q_norm.", "k_norm."))


class Rows(Protocol):
    """A matrix whose rows can be taken in part."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    def row_range(self, first: int, rows: int) -> Self:
        """The matrix of some of them."""
        ...


_Rows = TypeVar("_Rows", bound=Rows)


def split_fused(source: Path, spec: ModelSpec, found: Mapping[str, _Rows]) -> dict[str, _Rows]:
    """`found`, by our names, with fused matrices (`wqkv`, `w13`) as their parts.

    ConfigError naming `source` for a fused matrix of another size.
    """
    q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    fused = {
        "wqkv": {"wq": q, "wk": kv, "wv": kv},
        "w13": {"w1": spec.ffn_dim, "w3": spec.ffn_dim},
    }
    parts: dict[str, _Rows] = {}
    for name, extent in found.items():
        before, _, rest = name.rpartition(".")
        prefix, _, matrix = before.rpartition(".")
        if matrix not in fused:
            parts[name] = extent
            continue
        sizes = fused[matrix]
        if extent.rows != sum(sizes.values()):
            raise ConfigError(source, expected=f"{name} of {sum(sizes.values())} rows", found=f"{extent.rows}")
        first = 0
        for part, rows in sizes.items():
            parts[f"{prefix}.{part}.{rest}"] = extent.row_range(first, rows)
            first += rows
    return parts
