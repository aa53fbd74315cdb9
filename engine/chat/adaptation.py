"""Renders small dialogs to learn which dialogs a template takes, and changes others so that it takes them.

If a template refuses a system text or leaves it out, the text goes into the next message of the user. If it demands
user and assistant in turn, consecutive messages of one role are joined by a blank line. A dialog that cannot be changed
so is refused, and the error says what the template needs. Knows templates and roles; knows no tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.chat.limits import TemplateLimitError
from engine.chat.sandbox import DialogRefusedError
from engine.chat.template import BrokenTemplateError, ChatTemplate
from engine.errors import InvalidDialog

SECONDS = 1.0  # for each dialog that is tried
_SYSTEM, _USER, _REPLY, _LATER = "Kqzsystem", "Kqzquestion", "Kqzreply", "Kqzlater"
SystemPlace = Literal["anywhere", "first", "nowhere"]
_USER_FIRST = "this model's chat template needs a message from the user first, after at most one system message"


@dataclass(frozen=True, slots=True)
class DialogRules:
    """`system`: where a system text may stand; "first" is a single one, before all other messages.

    `alternating`: the template refuses two messages of the user in a row, or leaves one out. `user_first`: it does so
    with a dialog that the assistant begins.
    """

    system: SystemPlace
    alternating: bool
    user_first: bool


def dialog_rules(template: ChatTemplate) -> DialogRules:
    """Raises BrokenTemplateError if the template does not even take a question."""
    question = _rendered(template, _dialog(user=_USER), required=True)
    if _USER not in question:
        raise BrokenTemplateError("it leaves out the message of the user")
    exchange = [*_dialog(user=_USER, assistant=_REPLY), *_dialog(user=_LATER)]
    answered = _rendered(template, exchange, required=True)
    if not all(text in answered for text in (_USER, _REPLY, _LATER)):
        raise BrokenTemplateError("it leaves out messages of a dialog")

    def takes(messages: Sequence[Mapping[str, str]]) -> bool:
        rendered = _rendered(template, messages)
        return all(message["content"] in rendered for message in messages)

    system: SystemPlace = "nowhere"
    if takes([*_dialog(system=_SYSTEM, user=_USER)]):
        middle = [*_dialog(user=_USER, assistant=_REPLY), *_dialog(system=_SYSTEM, user=_LATER)]
        in_order = _rendered(template, middle)
        places = [in_order.find(text) for text in (_USER, _REPLY, _SYSTEM, _LATER)]
        system = "anywhere" if -1 not in places and places == sorted(places) else "first"
        if system == "anywhere" and not takes([*_dialog(system="Kqzfirst"), *_dialog(system=_SYSTEM, user=_USER)]):
            system = "first"
    alternating = not takes([*_dialog(user=_USER), *_dialog(user=_LATER)])
    return DialogRules(system, alternating, user_first=not takes([*_dialog(assistant=_REPLY), *_dialog(user=_USER)]))


def adapted(messages: Sequence[Mapping[str, Any]], rules: DialogRules) -> list[Mapping[str, Any]]:
    """The messages, changed to what the template takes. Raises InvalidDialog."""
    turns = _without_system(messages, rules.system)
    if rules.alternating:
        turns = _joined(turns)
    first = next((message for message in turns if message["role"] != "system"), None)
    if first is None and (rules.alternating or rules.system == "nowhere"):
        raise InvalidDialog("this model's chat template needs a message from the user")
    if first is not None and first["role"] == "assistant" and rules.user_first:
        raise InvalidDialog(_USER_FIRST, index=next(i for i, m in enumerate(messages) if m["role"] != "system"))
    return turns


def _without_system(messages: Sequence[Mapping[str, Any]], system: SystemPlace) -> list[Mapping[str, Any]]:
    """Moves each system text from a place where the template does not take it.

    Those at the beginning are joined to one if the template takes one there. Others are put before the next text of the
    user, or after the last one if none follows. In a dialog without a message of the user they become that message.
    """
    if system == "anywhere":
        return list(messages)
    leading = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    turns: list[Mapping[str, Any]] = []
    waiting: list[Mapping[str, Any]] = []
    if system == "first" and leading:
        turns.append(_merged(messages[:leading]))
    else:
        leading = 0
    for message in messages[leading:]:
        if message["role"] == "system":
            waiting.append(message)
        elif message["role"] == "user" and waiting:
            turns.append(_merged([*waiting, message]))
            waiting = []
        else:
            turns.append(message)
    if waiting:  # no message of the user follows
        last = next((i for i in range(len(turns) - 1, -1, -1) if turns[i]["role"] == "user"), None)
        if last is None:
            turns.append({**_merged(waiting), "role": "user"})
        else:
            turns[last] = _merged([turns[last], *waiting], role="user")
    return turns


def _joined(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    turns: list[Mapping[str, Any]] = []
    for message in messages:
        if turns and turns[-1]["role"] == message["role"] and not _is_of_tools(message) and not _is_of_tools(turns[-1]):
            turns[-1] = _merged([turns[-1], message])
        else:
            turns.append(message)
    return turns


def _is_of_tools(message: Mapping[str, Any]) -> bool:
    return message["role"] == "tool" or "tool_calls" in message


def _merged(messages: Sequence[Mapping[str, Any]], role: str | None = None) -> Mapping[str, Any]:
    """One message of the last one's role, with the texts of all."""
    if len(messages) == 1 and role is None:
        return messages[0]
    content = "\n\n".join(message["content"] for message in messages)
    return {**messages[-1], "role": role or messages[-1]["role"], "content": content}


def _dialog(**texts: str) -> list[Mapping[str, str]]:
    return [{"role": role, "content": text} for role, text in texts.items()]


def _rendered(template: ChatTemplate, messages: Sequence[Mapping[str, str]], *, required: bool = False) -> str:
    """The prompt; empty if the template refuses the dialog, unless it is `required`."""
    try:
        return template.render(messages, seconds=SECONDS)
    except TemplateLimitError as error:
        raise BrokenTemplateError(f"{error}") from error
    except DialogRefusedError as error:
        if required:
            raise BrokenTemplateError(f"it refuses a message of the user: {error}") from error
        return ""
    except BrokenTemplateError:
        if required:
            raise
        return ""
