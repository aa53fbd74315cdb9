"""Reads a checkpoint's small files. Every error names the file, what was expected and what was found."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConfigError

Json = Mapping[str, object]

MAX_FILE_BYTES = 1 << 27  # four times the largest tokenizer.json there is; parsing takes many times as much memory
MAX_INTEGER = 1 << 40
MAX_CONTEXT = 1 << 22  # the longest that a Llama was published with; the RoPE table of more would not fit
MAX_EXPERTS = 1 << 10
MAX_LAYERS = 1 << 12  # checked before a table with a value for each layer is made


def is_listed(path: Path) -> bool:
    """Whether the directory lists the name. A link to a file that is gone must not count as an absent file."""
    return path.is_symlink() or path.exists()


def read_bytes(path: Path) -> bytes:
    """The file's content; ConfigError if it cannot be read, is no regular file (a pipe never ends), or is too large."""
    try:
        if not path.is_file():
            raise ConfigError(
                path, expected="a readable file", found="something else" if path.exists() else "nothing there"
            )
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(path, expected=f"at most {MAX_FILE_BYTES} bytes", found="more")
    return content


def read_json(path: Path) -> Json:
    """The JSON object in a file; ConfigError if it holds anything else."""
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, truncated, or nested too deeply
        raise ConfigError(
            path, expected="a JSON object", found=f"{len(content)} bytes that are none: {error}"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(path, expected="a JSON object", found=type(value).__name__)
    return value


class ConfigReader:
    """Typed access to the values of a configuration file; a missing or impossible value is a ConfigError.

    JSON's null counts as missing. A method without a default makes its key mandatory.
    """

    def __init__(self, source: Path, values: Json) -> None:
        self.source, self.values = source, values

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self.values.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.invalid(key, f"a whole number, at least {minimum}")
        if value > maximum:
            raise self.invalid(key, f"at most {maximum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number > 0."""
        value = self.values.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self.invalid(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean; null is false."""
        value = self.values.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise self.invalid(key, "true or false")
        return bool(value)

    def text(self, key: str) -> str | None:
        """A string, or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.invalid(key, "a text")
        return value

    def section(self, key: str) -> "ConfigReader | None":
        """A nested object, or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.invalid(key, "an object")
        return None if value is None else ConfigReader(self.source, value)

    def invalid(self, key: str, expected: str) -> ConfigError:
        """The error for a key whose value is not what was expected."""
        found = f"{key} = {self.values[key]!r:.80}" if key in self.values else f"no {key}"
        return ConfigError(self.source, expected=f"{key} to be {expected}", found=found)


def check_heads(source: Path, dim: int, n_heads: int, n_kv_heads: int, head_dim: int) -> None:
    """ConfigError unless grouped-query attention and RoPE are possible with these sizes."""
    if n_heads % n_kv_heads:
        raise ConfigError(source, expected="heads divisible by key/value heads", found=f"{n_heads} and {n_kv_heads}")
    if head_dim % 2:
        raise ConfigError(source, expected="an even head size", found=f"{head_dim} (dim {dim}, {n_heads} heads)")


def check_vocab_size(source: Path, *, embeddings: int, tokenizer: int, padded: bool = False) -> None:
    """ConfigError unless the tokenizer has one token for each row of the embedding matrix.

    `padded`: the matrix may have more rows than the tokenizer has tokens, but fewer than twice as many.
    """
    if not (embeddings // 2 < tokenizer <= embeddings if padded else tokenizer == embeddings):
        expected = f"a vocabulary of {embeddings}, as the weights have"
        raise ConfigError(source, expected=expected, found=f"one of {tokenizer}")
