"""Builds the request for a turn's reply: persona, pairs, message and files, within the guild's settings.

Knows the turn as it was begun; knows neither the engine nor the database.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from bot.chat.prompts.prompt import select_pairs
from bot.chat.prompts.prompt_fit import GenerationRequest
from bot.chat.prompts.speakers import said, system_prompt
from bot.chat.requests import PendingTurn
from bot.chat.scenes.view import names_of, rules_for
from bot.engine_client.messages import image_part
from bot.engine_client.pseudonyms import Pseudonyms
from bot.settings import Settings

_REMEMBERED_DIALOGS = 10_000


class PromptBuilder:
    """Builds prompts for all dialogs, and remembers where the last one of each began."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pseudonyms = Pseudonyms(settings)
        # The first turn of each dialog's last prompt (see prompt.select_pairs). Losing one costs a prefix hit.
        self._first_kept: OrderedDict[int, int] = OrderedDict()

    def request(self, turn: PendingTurn) -> GenerationRequest:
        """The request for a turn, before it is fitted into the context."""
        limit = _capped(turn.settings.max_chat_logs, self._settings.max_chat_logs)
        first_kept = self._first_kept.pop(turn.dialog_id, None)
        pairs = select_pairs(turn.history, limit, self._settings.trim_step, first_kept)
        if pairs and turn.dialog_id:  # 0: another dialog each time
            self._first_kept[turn.dialog_id] = pairs[0].turn_id
            if len(self._first_kept) > _REMEMBERED_DIALOGS:
                self._first_kept.popitem(last=False)
        persona = self._settings.persona if turn.persona is None else turn.persona.prompt
        taken = () if turn.persona is None or not turn.persona.name else (turn.persona.name,)
        if turn.scene is not None:
            taken = (*taken, *names_of(turn.scene).values())
        return GenerationRequest(
            persona=system_prompt(persona, shared=turn.key.shared, scene=rules_for(turn)),
            history=[replace(pair, user=said(pair.user, pair.author, pair.files, taken)) for pair in pairs],
            text=turn.text,
            author=turn.author,
            taken=taken,
            files=turn.files,
            images=tuple(image_part(image.media_type, image.data) for image in turn.images),
            prefix=turn.reply if turn.kind == "continue" else "",
            user=self._pseudonyms.user(turn.key),
            cache_salt=self._pseudonyms.cache_salt(turn.key),
            max_reply_tokens=_capped(turn.settings.max_reply_tokens, self._settings.max_reply_tokens),
        )


def _capped(chosen: int | None, limit: int) -> int:
    """The guild's value, capped by the operator's limit, which may have been lowered since."""
    return limit if chosen is None else min(limit, chosen)
