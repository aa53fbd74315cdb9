"""What the name of a model means to our own engine: a path, the embedded model, or a pulled one."""

from __future__ import annotations

from pathlib import Path

from bot.errors import ConfigError
from bot.hub.catalogue import CatalogueModel, find, nearest
from bot.hub.store import ModelStore
from bot.settings import EMBEDDED_MODEL, SPECULATE_MODES, Settings


def model_store(settings: Settings) -> ModelStore:
    """The folder that models are pulled into."""
    return ModelStore(Path(settings.models_dir).expanduser())


def resolve_model(settings: Settings) -> str:
    """What the engine is told to load. Raises ConfigError for a model that is not here, with the command to fetch it.

    A path that exists wins over a name. What looks like a path goes to the engine, which says what is wrong with it.
    """
    return _resolve(settings, settings.model, "GUILDLLAMA_MODEL")


def resolve_drafts(settings: Settings) -> str:
    """Where the engine's drafts come from: a mode, or a model as in `resolve_model`."""
    mode = settings.speculate
    return mode if mode in SPECULATE_MODES else _resolve(settings, mode, "GUILDLLAMA_SPECULATE")


def _resolve(settings: Settings, text: str, setting: str) -> str:
    wanted = text.strip()
    if wanted == EMBEDDED_MODEL or Path(wanted).exists():
        return wanted
    model = find(wanted)
    if model is None:
        if _is_path(wanted):
            return text
        raise unknown_model(setting, wanted)
    store = model_store(settings)
    pulled = store.pulled(model)
    if pulled is None:
        state = "is not fully here" if store.has_files(model.name) else "is not here yet"
        raise ConfigError(
            setting,
            f"{model.name} {state}",
            f"`guildllama models pull {model.name}` fetches it ({gigabytes(model)}).",
        )
    return str(store.path(pulled).resolve())


def known_model(name: str) -> CatalogueModel:
    """The model of this name. Raises ConfigError with the nearest names."""
    model = find(name)
    if model is None:
        raise unknown_model("models", name)
    return model


def unknown_model(setting: str, name: str) -> ConfigError:
    """The error for a name that nothing is known of."""
    near = nearest(name)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(
        setting,
        f"{name!r} is neither a file or folder nor a model that guildllama knows",
        f"{meant}`guildllama models` shows them all.",
    )


def gigabytes(model: CatalogueModel) -> str:
    """The size of a download in words."""
    size = f"{model.size / 1e9:.1f} GB"
    return size if model.pinned else f"about {size}"


def _is_path(text: str) -> bool:
    return (
        "/" in text or "\\" in text or text.startswith((".", "~")) or text.endswith((".gguf", ".safetensors", ".pth"))
    )
