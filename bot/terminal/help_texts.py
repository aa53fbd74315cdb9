"""The examples below each command's --help, and the version. Imports nothing heavy: --help must answer at once."""

from __future__ import annotations

from importlib import metadata


def examples(*lines: tuple[str, str]) -> str:
    """An epilog: commands with what each does, one a line; none is wider than a terminal of 80 columns."""
    width = max(len(command) for command, _ in lines)
    return "\n".join(("Examples:", *(f"  {command:<{width}}  # {what}" for command, what in lines)))


PARTS = ("settings", "files", "database", "discord", "engine", "machine", "monitoring", "admin", "process")
"""What `guildllama doctor` checks, in this order."""
PROGRAM = examples(
    ("guildllama init", "write the settings file, three questions"),
    ("guildllama doctor", "is everything ready, and what mends it"),
    ("guildllama run", "be on Discord"),
    ("guildllama chat", "talk in the terminal, without Discord"),
    ("guildllama --install-completion", "let the shell complete commands"),
)
INIT = examples(
    ("guildllama init", "ask, then write .env"),
    ("guildllama init --file bot.env", "write another file"),
    (r"printf '%s\n\n\n' TOKEN | guildllama init", "from a pipe; empty: the default"),
)
RUN = examples(
    ("guildllama run", "until Ctrl-C or SIGTERM"),
    ("kill -HUP PID", "read log level and limits again while it runs"),
)
CHAT = examples(
    ("guildllama chat --guild 1 --user 7", "speak as a member of a guild"),
    ('guildllama chat -m "Who are you?"', "answer once and exit"),
    (r"printf 'Hello\n/quit\n' | guildllama chat", "from a pipe"),
)
DOCTOR = examples(
    ("guildllama doctor", "everything"),
    ("guildllama doctor --only database --only files", "parts of it"),
    ("guildllama doctor --json", "for other programs"),
    ("guildllama doctor --only process", "is the bot alive"),
)
DB = examples(
    ("guildllama db upgrade", "back up, then update the schema"),
    ("guildllama db backup FILE", "a copy, also while the bot runs"),
    ("guildllama db dialogs --guild 1 --json", "for other programs"),
    ("guildllama db export 12 -o dialog.md", "one dialog as a file"),
)
MODELS = examples(
    ("guildllama models", "which models fit this machine"),
    ("guildllama models pull NAME", "fetch one for GUILDLLAMA_MODEL"),
)
PERSONA = examples(
    ('guildllama persona set "You are a pirate." --guild 1', "for a guild"),
    ("guildllama persona set - --guild 1 < pirate.txt", "from a file"),
    ("guildllama persona show --guild 1 --user 7", "who answers user 7"),
)
CLEANUP = examples(("guildllama cleanup --dry-run", "tell what would be done"))


def version() -> str:
    """The installed version, or a word for a program that runs without having been installed."""
    try:
        return metadata.version("guildllama")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
