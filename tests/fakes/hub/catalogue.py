"""A catalogue of small models in place of the real one, loaded in small pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from bot.hub import catalogue, fit
from bot.terminal import models_commands

_PIECE = 1 << 14
"""In place of 10 MB, of which a cut leaves nothing."""


def use_catalogue(path: Path, set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let every module that has the catalogue have this one, read from JSON."""
    models = tuple(
        catalogue.CatalogueModel(**{**entry, "file": catalogue.HubFile(**entry["file"]) if "file" in entry else None})
        for entry in json.loads(path.read_text())
    )
    for module in (catalogue, fit, models_commands):
        set_attribute(module, "CATALOGUE", models)
    set_attribute(constants, "DOWNLOAD_CHUNK_SIZE", _PIECE)
