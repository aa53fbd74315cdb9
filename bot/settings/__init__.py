"""The operator's settings: what there is, which values are valid, and how they are read."""

from bot.settings.loading import NOT_SETTINGS, load_settings, unknown_variables
from bot.settings.settings import DEFAULT_PERSONA, EMBEDDED_DEFAULTS, EMBEDDED_MODEL, PREFIX, Settings
from bot.settings.values import SPECULATE_MODES

__all__ = [
    "DEFAULT_PERSONA",
    "EMBEDDED_DEFAULTS",
    "EMBEDDED_MODEL",
    "NOT_SETTINGS",
    "PREFIX",
    "SPECULATE_MODES",
    "Settings",
    "load_settings",
    "unknown_variables",
]
