"""Every query, as plain async functions. Queries never commit: whoever opened the transaction does."""

from models.queries.personas import clear_persona, effective_persona, get_persona, set_persona
from models.queries.turns import begin_turn, end_dialog, fail_turn, finish_turn, history

__all__ = [
    "begin_turn",
    "clear_persona",
    "effective_persona",
    "end_dialog",
    "fail_turn",
    "finish_turn",
    "get_persona",
    "history",
    "set_persona",
]
