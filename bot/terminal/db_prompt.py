"""`guildllama db prompt`: the prompt of a turn as it was sent, built again from what is stored."""

from __future__ import annotations

import sys

import typer

from bot.chat.prompts.rebuild import RebuiltPrompt, rebuild
from bot.settings import load_settings
from bot.terminal.applications import for_each
from bot.terminal.output import one_line_errors, print_json, print_table, with_database
from models.database import Database
from models.queries.dialogs.prompt_parts import prompt_parts
from models.types import PromptParts

_NONE = "guildllama: no prompt of turn {} is recorded; `guildllama db show DIALOG` lists which turns have one\n"
_ANOTHER_REPLY = "The reply in use is another one; this was the prompt of the reply that was written last.\n"


def show_prompt(turn_id: int, *, as_json: bool) -> None:
    """Print the prompt of a turn, and what of it has changed since. Exit code 1 if none is recorded."""
    with one_line_errors():
        settings = load_settings()

    async def work(database: Database) -> tuple[PromptParts, RebuiltPrompt] | None:
        async with database.read() as session:
            parts = await prompt_parts(session, turn_id=turn_id)
        return None if parts is None else (parts, await rebuild(parts, settings))

    everywhere = with_database(lambda database: for_each(database, None, work))
    if (found := next(filter(None, everywhere), None)) is None:
        sys.stderr.write(_NONE.format(turn_id))
        raise typer.Exit(1)
    parts, prompt = found
    if as_json:
        print_json(
            {
                "turn_id": turn_id,
                "dialog_id": parts.dialog_id,
                "exact": prompt.exact,
                "differences": list(prompt.differences),
                "of_reply_in_use": parts.is_newest_reply,
                "record": parts.record,
                "messages": list(prompt.messages),
            }
        )
        return
    rows = ((message["role"], message["content"]) for message in prompt.messages)
    print_table(f"Prompt of turn {turn_id}", ("role", "content"), rows)
    state = "Exactly as sent." if prompt.exact else f"Not exactly as sent: {'; '.join(prompt.differences)}."
    sys.stdout.write(f"{state}\n{'' if parts.is_newest_reply else _ANOTHER_REPLY}")
