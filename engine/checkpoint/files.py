"""Small files of a checkpoint, read with errors that name the file, what was expected and what was found."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConfigError

Json = Mapping[str, object]


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(path, expected="a readable file", found=str(error.strerror)) from error


def read_json(path: Path) -> Json:
    content = read_bytes(path)
    try:
        value = json.loads(content)
    except ValueError as error:  # not UTF-8, not JSON, or cut short
        raise ConfigError(
            path, expected="a JSON object", found=f"{len(content)} bytes that are none: {error}"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(path, expected="a JSON object", found=type(value).__name__)
    return value


class Settings:
    """Typed access to a file's settings; a missing or impossible value is a ConfigError."""

    def __init__(self, where: Path, values: Json) -> None:
        self.where, self.values = where, values

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.values.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(key, f"a whole number, at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def section(self, key: str) -> "Settings | None":
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return None if value is None else Settings(self.where, value)

    def wrong(self, key: str, expected: str) -> ConfigError:
        found = f"{key} = {self.values[key]!r:.80}" if key in self.values else f"no {key}"
        return ConfigError(self.where, expected=f"{key} to be {expected}", found=found)


def check_heads(where: Path, dim: int, n_heads: int, n_kv_heads: int, head_dim: int) -> None:
    if n_heads % n_kv_heads:
        raise ConfigError(where, expected="heads divisible by key/value heads", found=f"{n_heads} and {n_kv_heads}")
    if head_dim % 2:
        raise ConfigError(where, expected="an even head size", found=f"{head_dim} (dim {dim}, {n_heads} heads)")
