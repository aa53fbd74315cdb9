"""What a member can want to do: one action for each group of commands, each button, modal and entry of a menu."""

from __future__ import annotations

import enum


class Action(enum.Enum):
    """What a member wants to do. The value is the word of `action_word`, or the first one of the custom id."""

    CHAT = "chat"
    ASK = "ask"
    REGENERATE = "regenerate"
    CONTINUE = "continue"
    EDIT = "edit"
    VARIANT = "variant"
    FORGET = "forget"
    FILE = "file"
    STOP = "stop"
    THREAD = "thread"
    RESET = "reset"
    HISTORY = "history"
    CONVERSATION = "conversation"
    GUILD_PERSONA = "persona"
    READ_PERSONAS = "personas"
    OWN_PERSONA = "me"
    CARD = "card"
    GUILD_CARD = "guildcard"
    SCENE = "scene"
    CONFIG = "config"
    ADMIN = "admin"
    REPORT = "report"
    OWN_SETTINGS = "mine"
    PRIVACY = "privacy"
    MEMORY = "memory"
    WHY = "why"
    QUOTA = "quota"
    QUEUE = "queue"
    HELP = "help"


ASK_MENU, CARD_MENU, WHY_MENU = "Ask about this", "Import character card", "Why this answer?"
REPORT_MENU = "Report this answer"
MENU_ACTIONS = {
    ASK_MENU: Action.ASK,
    CARD_MENU: Action.CARD,
    WHY_MENU: Action.WHY,
    REPORT_MENU: Action.REPORT,
}
"""The entries in the menu of a message, by what the menu calls them."""
_READING = frozenset({("persona", "show"), ("persona", "list")})
"""Commands for everyone in a group whose other commands are for managers."""


def action_word(command: str, subcommand: str) -> str:
    """The word of the action that a command is; the first one of its name, unless it only reads."""
    if command in MENU_ACTIONS:
        return MENU_ACTIONS[command].value
    return Action.READ_PERSONAS.value if (command, subcommand) in _READING else command
