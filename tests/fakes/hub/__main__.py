"""`python -m tests.fakes.hub CATALOGUE.json ...`: the guildllama command with a catalogue of small models."""

from __future__ import annotations

import sys
from pathlib import Path

from bot.cli import main
from tests.fakes.hub.catalogue import use_catalogue

use_catalogue(Path(sys.argv.pop(1)))
main()
