"""`python -m tests.fakes.hub CATALOGUE.json ...`: the guildllama command with a catalogue of small models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bot.hub import catalogue

entries = json.loads(Path(sys.argv.pop(1)).read_text())
catalogue.CATALOGUE = tuple(
    catalogue.CatalogueModel(
        **{
            **entry,
            "files": tuple(catalogue.HubFile(**file) for file in entry.get("files", ())),
            "patterns": tuple(entry.get("patterns", ())),
        }
    )
    for entry in entries
)

from bot.cli import main  # noqa: E402 - the modules that it imports take the catalogue's name at their import

main()
