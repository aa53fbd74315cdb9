"""Opens checkpoints in Meta's, Hugging Face's or GGUF format and reads any slice of any tensor.

`open_checkpoint` detects the format from the files at the path, validates everything that does not need the weights
and returns a `Checkpoint`. It knows nothing of ranks or devices: the caller names the slice and the destination.
"""

from pathlib import Path

from engine.checkpoint.architecture import (
    Architecture,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    YarnScaling,
)
from engine.checkpoint.gguf.checkpoint import open_gguf
from engine.checkpoint.gguf.container import is_gguf
from engine.checkpoint.gguf.default_model import default_model
from engine.checkpoint.huggingface.checkpoint import open_huggingface
from engine.checkpoint.meta import open_meta
from engine.checkpoint.spec import ChatFamily, Checkpoint, ModelSpec, tensor_shapes
from engine.errors import ConfigError

__all__ = [
    "Architecture",
    "ChatFamily",
    "Checkpoint",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "ModelSpec",
    "RopeScaling",
    "YarnScaling",
    "open_checkpoint",
    "tensor_shapes",
]

DEFAULT_MODEL = "smollm2"


def open_checkpoint(path: str | Path, *, tokenizer: Path | None = None) -> Checkpoint:
    """Open and validate the checkpoint at `path`; the name `smollm2` stands for the embedded default model.

    `tokenizer` is the path of `tokenizer.model` for a checkpoint in Meta's layout that has none in its directory or
    the parent directory. ConfigError says what is wrong.
    """
    if str(path) == DEFAULT_MODEL:
        return open_gguf(default_model())
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _open_directory(path, tokenizer)
        if path.exists():
            if path.is_file() and is_gguf(path):
                return open_gguf(path)
            raise ConfigError(path, expected="a GGUF file or a checkpoint's directory", found="another file")
    except OSError as error:  # a directory that may not be listed, a name that is too long
        raise ConfigError(path, expected="a readable checkpoint", found=str(error.strerror)) from error
    raise ConfigError(path, expected="a checkpoint's directory, a GGUF file or the name smollm2", found="nothing there")


def _open_directory(path: Path, tokenizer: Path | None) -> Checkpoint:
    has_params, has_config = (path / "params.json").exists(), (path / "config.json").exists()
    # Some publishers add a params.json of their own to Hugging Face's files, so look for Meta's weights too.
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
