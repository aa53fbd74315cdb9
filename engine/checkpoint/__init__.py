"""Model files: one way to open them, whatever their format, and one way to read any slice of any tensor.

`open_checkpoint` recognises a format by what lies at the path, checks everything that can be checked without reading
weights, and answers with a `Checkpoint`. Knows nothing of ranks or devices: callers say which slice goes where.
"""

from pathlib import Path

from engine.checkpoint.gguf.checkpoint import default_model, open_gguf
from engine.checkpoint.gguf.container import is_gguf
from engine.checkpoint.huggingface.checkpoint import open_huggingface
from engine.checkpoint.meta import open_meta
from engine.checkpoint.spec import Chat, Checkpoint, ModelSpec, RopeScaling, tensor_shapes
from engine.errors import ConfigError

__all__ = ["Chat", "Checkpoint", "ModelSpec", "RopeScaling", "open_checkpoint", "tensor_shapes"]

DEFAULT_MODEL = "smollm2"


def open_checkpoint(path: str | Path, *, tokenizer: Path | None = None) -> Checkpoint:
    """Open and validate; `smollm2` names the embedded default. ConfigError says what is wrong with a path.

    `tokenizer`: where the vocabulary of a checkpoint in Meta's layout lies, if not in its directory or beside it.
    """
    if str(path) == DEFAULT_MODEL:
        return open_gguf(default_model())
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _open_directory(path, tokenizer)
        if path.exists():
            if is_gguf(path):
                return open_gguf(path)
            raise ConfigError(path, expected="a GGUF file or a checkpoint's directory", found="another file")
    except OSError as error:  # a directory that may not be listed, a name that is too long
        raise ConfigError(path, expected="a readable checkpoint", found=str(error.strerror)) from error
    raise ConfigError(path, expected="a checkpoint's directory, a GGUF file or the name smollm2", found="nothing there")


def _open_directory(path: Path, tokenizer: Path | None) -> Checkpoint:
    has_params, has_config = (path / "params.json").exists(), (path / "config.json").exists()
    # Some publishers put a params.json of their own beside Hugging Face's files: the weights decide.
    if has_params and (not has_config or any(path.glob("consolidated.*.pth"))):
        return open_meta(path, tokenizer)
    if has_config:
        return open_huggingface(path)
    if any(path.glob("consolidated.*.pth")):
        raise ConfigError(path, expected="params.json beside the shards", found="none")
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return open_gguf(ggufs[0])
    names = ", ".join(sorted(file.name for file in path.iterdir())[:4]) or "nothing"
    raise ConfigError(path, expected="params.json (Meta), config.json (Hugging Face) or one GGUF file", found=names)
