"""Builds the request for a turn's reply: persona, memory, pairs, message, files, within the guild's settings.

Knows the turn as it was begun; knows neither the engine nor the database.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypedDict

from bot.characters.macros import expand_names
from bot.chat.prompts.characters import EVERYONE, Characters, notes_without_history, prompt_of, with_character
from bot.chat.prompts.memory_notes import with_memory
from bot.chat.prompts.prompt import select_pairs
from bot.chat.prompts.prompt_fit import GenerationRequest
from bot.chat.prompts.speakers import clean_name, said, system_prompt
from bot.chat.requests import PendingTurn
from bot.chat.scenes.view import names_of, rules_for
from bot.engine_client.messages import image_part
from bot.engine_client.pseudonyms import Pseudonyms
from bot.settings import Settings
from models.application import TERMINAL
from models.types import Pair, PromptInputs

_REMEMBERED_DIALOGS = 10_000
_SOMEBODY = "User"
"""What `{{user}}` stands for where members have no names: in a terminal."""
_NAMELESS = "the assistant"
"""What `{{char}}` stands for in a persona without a name."""


class _Added(TypedDict, total=False):
    """What a character adds to a request beside its history."""

    notes: str
    greeting: str
    greeting_index: int | None
    lore: tuple[int, ...]


class PromptBuilder:
    """Builds prompts for all dialogs, and remembers where the last one of each began.

    `context_length`: the model's, if it is known by now. `application`: as of `Pseudonyms`.
    """

    def __init__(
        self,
        settings: Settings,
        context_length: Callable[[], int | None] = lambda: None,
        application: Callable[[], int | None] = lambda: TERMINAL,
    ) -> None:
        self._settings = settings
        self._context_length = context_length
        self._characters = Characters()
        self._pseudonyms = Pseudonyms(settings, application)
        # The first turn of each dialog's last prompt (see prompt.select_pairs). Losing one costs a prefix hit.
        self._first_kept: OrderedDict[int, int] = OrderedDict()

    async def request(self, turn: PendingTurn) -> GenerationRequest:
        """The request for a turn, before it is fitted into the context."""
        limit = _capped(turn.settings.max_chat_logs, self._settings.max_chat_logs)
        first_kept = self._first_kept.pop(turn.dialog_id, None)
        pairs = select_pairs(turn.history, limit, self._settings.trim_step, first_kept)
        if pairs and turn.dialog_id:  # 0: another dialog each time
            self._first_kept[turn.dialog_id] = pairs[0].turn_id
            if len(self._first_kept) > _REMEMBERED_DIALOGS:
                self._first_kept.popitem(last=False)
        return with_memory(await self.build(turn, pairs), turn, self._settings)

    async def build(self, turn: PendingTurn, pairs: Sequence[Pair]) -> GenerationRequest:
        """The request for a turn with these pairs of its history, without what is remembered beside them."""
        limit = _capped(turn.settings.max_chat_logs, self._settings.max_chat_logs)
        context_length = self._context_length()
        user = EVERYONE if turn.key.shared else clean_name(turn.name) if turn.name else _SOMEBODY
        name = "" if turn.persona is None else turn.persona.name
        taken = (name,) if name else ()
        persona = self._settings.persona if turn.persona is None else turn.persona.prompt
        system, added = expand_names(persona, name or _NAMELESS, user), _Added()
        may_name = system != persona or (turn.persona is not None and turn.persona.card is not None)
        character = await self._characters.of(turn.persona)
        if character is not None:
            taken = tuple(dict.fromkeys((*taken, character.card.char)))
        if turn.scene is not None:
            taken = tuple(dict.fromkeys((*taken, *names_of(turn.scene).values())))
        history = [replace(pair, user=said(pair.user, pair.author, pair.files, taken)) for pair in pairs]
        if character is not None and turn.persona is not None:
            first = turn.dialog_id != 0 and limit > 0 and not turn.history and turn.kind != "continue"
            prompt = prompt_of(
                character,
                persona=turn.persona,
                user=user,
                history=turn.history,
                text=turn.text,
                first=first,
                dialog_id=turn.dialog_id,
                turn_id=turn.turn_id,
                context_length=context_length,
            )
            greets = first and bool(prompt.greeting)
            system = prompt.system
            added = _Added(
                notes=notes_without_history(prompt, history),
                greeting=prompt.greeting if greets else "",
                greeting_index=character.card.greeting if greets else None,
                lore=prompt.lore,
            )
            history = with_character(prompt, history, first=first)
        return GenerationRequest(
            persona=system_prompt(system, shared=turn.key.shared, scene=rules_for(turn)),
            history=history,
            text=turn.text,
            author=turn.author,
            taken=taken,
            files=turn.files,
            images=tuple(image_part(image.media_type, image.data) for image in turn.images),
            prefix=turn.prefix,
            user=self._pseudonyms.user(turn.key),
            cache_salt=self._pseudonyms.cache_salt(turn.key),
            max_reply_tokens=_capped(turn.settings.max_reply_tokens, self._settings.max_reply_tokens),
            inputs=PromptInputs(
                name=clean_name(turn.name) if turn.name and may_name and not turn.key.shared else "",
                persona_name=name,
                context_length=context_length,
                max_pairs=limit,
                history_turn_id=turn.history[0].turn_id if turn.history else None,
                selected_turn_id=pairs[0].turn_id if pairs else None,
                prefix_chars=len(turn.prefix),
                num_files=len(turn.files),
                num_images=len(turn.images),
                scene=()
                if turn.scene is None
                else tuple((each.persona_id, each.name) for each in turn.scene.characters),
            ),
            **added,
        )


def _capped(chosen: int | None, limit: int) -> int:
    """The guild's value, capped by the operator's limit, which may have been lowered since."""
    return limit if chosen is None else min(limit, chosen)
