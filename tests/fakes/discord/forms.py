"""What Discord refuses although its OpenAPI file allows it: messages, components, modals, commands, choices.

Each check raises ApiError with 50035 and names the field. Knows nothing of HTTP or of who sends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.fakes.discord.messages import Attachment, usable_components
from tests.fakes.discord.rules import SPEC, ApiError, invalid, utf16_length
from tests.fakes.discord.state import Json

MESSAGE_LENGTH, EMBED_LENGTH, FILES = 2000, 6000, 10
TOTAL_COMPONENTS, TOTAL_TEXT = 40, 4000  # of a message of components
COMMAND_LENGTH, COMMANDS = 8000, {1: 100, 2: 15, 3: 15}
ROW, BUTTON, SELECTS, TEXT_INPUT, LABEL, FILE_UPLOAD = 1, 2, {3, 5, 6, 7, 8}, 4, 18, 19
SLASH_NAME = re.compile(r"[-_'\w]{1,32}")
MODAL_FIELDS = 5
LOCALES = frozenset(SPEC["components"]["schemas"]["AvailableLocalesEnum"]["enum"])


def number_components(components: list[Json]) -> list[Json]:
    """The components with the ids that Discord gives to those that have none."""
    counter = iter(range(1, 1000))

    def numbered(item: Json) -> Json:
        own = {"id": item.get("id") or next(counter)}
        for key in ("components", "accessory", "component"):
            if isinstance(item.get(key), list):
                own[key] = [numbered(each) for each in item[key]]
            elif isinstance(item.get(key), dict):
                own[key] = numbered(item[key])
        return {**item, **own}

    return [numbered(item) for item in components]


def is_emoji(text: str) -> bool:
    """Whether a text could be one Unicode emoji."""
    return 0 < len(text) <= 16 and not any(char.isalpha() and ord(char) < 0x2000 for char in text) and any(
        ord(char) >= 0x203C or char in "©®\u20e3" for char in text
    )  # fmt: skip


def check_files(files: dict[str, Attachment], limit: int) -> None:
    """At most ten files, none above the size limit of the guild."""
    if len(files) > FILES:
        raise invalid("attachments", "Must be 10 or fewer in length.", code="BASE_TYPE_MAX_LENGTH")
    for file in files.values():
        if len(file.content) > limit:
            raise ApiError(413, 40005, violation=f"{file.filename}: {len(file.content)} bytes")


def check_message(
    content: str, embeds: Sequence[Json], components: list[Json], attachments: Sequence[Attachment], *, v2: bool
) -> None:
    """A message as it would be after the request."""
    if utf16_length(content) > MESSAGE_LENGTH:
        raise invalid("content", "Must be 2000 or fewer in length.", code="BASE_TYPE_MAX_LENGTH")
    if len(attachments) > FILES:
        raise invalid("attachments", "Must be 10 or fewer in length.", code="BASE_TYPE_MAX_LENGTH")
    if sum(_embed_length(embed) for embed in embeds) > EMBED_LENGTH:
        raise invalid("embeds", "Embed size exceeds maximum size of 6000", code="MAX_EMBED_SIZE_EXCEEDED")
    if v2 and (content or embeds):
        raise invalid("content", "The 'content' field cannot be used when using MessageFlags.IS_COMPONENTS_V2")
    if not content and not embeds and not attachments and not components:
        raise ApiError(400, 50006)
    if v2:
        if _count(components) > TOTAL_COMPONENTS:
            raise invalid("components", "The total number of components must be 40 or fewer")
        if _text_length(components) > TOTAL_TEXT:
            raise invalid("components", "The total text of all components must be 4000 or fewer in length")
    elif len(components) > 5 or any(item["type"] != ROW for item in components):
        raise invalid("components", "Must be 5 or fewer action rows", code="BASE_TYPE_BAD_LENGTH")
    _check_components(components, "components")


def _embed_length(embed: Json) -> int:
    texts = [embed.get("title"), embed.get("description"), (embed.get("footer") or {}).get("text"),
             (embed.get("author") or {}).get("name")]  # fmt: skip
    texts += [field.get(key) for field in embed.get("fields") or () for key in ("name", "value")]
    return sum(utf16_length(text) for text in texts if text)


def _count(components: Iterable[Json]) -> int:
    return sum(1 + _count(item.get("components", ())) + bool(item.get("accessory")) for item in components)


def _text_length(components: Iterable[Json]) -> int:
    return sum(
        utf16_length(item.get("content") or "") + _text_length(item.get("components", ())) for item in components
    )


def _check_components(components: list[Json], path: str) -> None:
    for position, item in enumerate(components):
        where = f"{path}.{position}"
        if item["type"] == ROW:
            kinds = [each["type"] for each in item["components"]]
            if any(kind in SELECTS for kind in kinds) and len(kinds) > 1:
                raise invalid(f"{where}.components", "The row has no space for a select menu and other components")
        _check_components(item.get("components", []), f"{where}.components")
    for item in usable_components(components):
        if item["type"] == BUTTON:
            _check_button(item, path)
        elif item["type"] in SELECTS:
            check_select(item, path)
    _check_unique((item["custom_id"] for item in usable_components(components) if item.get("custom_id")), path)


def _check_unique(custom_ids: Iterable[str], path: str) -> None:
    if repeated := [each for each, times in Counter(custom_ids).items() if times > 1]:
        raise invalid(path, f"Component custom id cannot be duplicated: {repeated[0]}",
                      code="COMPONENT_CUSTOM_ID_DUPLICATED")  # fmt: skip


def _check_button(button: Json, path: str) -> None:
    style, emoji = button["style"], button.get("emoji")
    if style == 5:
        if not re.match(r"(https?|discord)://", button.get("url") or "") or button.get("custom_id"):
            raise invalid(f"{path}.url", "A link button has a URL and no custom id")
    elif style != 6 and (not button.get("custom_id") or button.get("url")):
        raise invalid(f"{path}.custom_id", "A custom id and no URL are required")
    if style != 6 and not button.get("label") and not emoji:
        raise invalid(f"{path}.label", "A label or emoji is required", code="BUTTON_COMPONENT_INVALID")
    if emoji and not emoji.get("id") and not is_emoji(emoji["name"]):
        raise invalid(f"{path}.emoji.name", "Invalid emoji", code="COMPONENT_INVALID_EMOJI")


def check_select(select: Json, path: str) -> None:
    """A select menu: as many values as there are options, each only once, and no more of them chosen than allowed."""
    least, most = select.get("min_values"), select.get("max_values")
    least, most = 1 if least is None else least, 1 if most is None else most
    if least > most:
        raise invalid(f"{path}.min_values", "min_values must not be above max_values")
    if (chosen := select.get("default_values")) and not least <= len(chosen) <= most:
        raise invalid(f"{path}.default_values", "There must be as many as min_values and max_values allow")
    if select["type"] == 3:
        options = select["options"]
        if most > len(options):
            raise invalid(f"{path}.options", "There are fewer options than max_values")
        if len({option["value"] for option in options}) != len(options):
            raise invalid(f"{path}.options", "The specified option value is already used",
                          code="SELECT_COMPONENT_OPTION_VALUE_DUPLICATED")  # fmt: skip
        if sum(bool(option.get("default")) for option in options) > most:
            raise invalid(f"{path}.options", "More defaults than max_values")


def check_modal(modal: Json) -> None:
    """A modal: at most five fields, each with its own custom id, no default text beyond its own limits."""
    rows = modal["components"]
    if len(rows) > MODAL_FIELDS:
        raise invalid("data.components", "Must be between 1 and 5 in length.", code="BASE_TYPE_BAD_LENGTH")
    fields = modal_fields(modal)
    _check_unique((field["custom_id"] for field in fields), "data.components")
    for row in rows:
        if row["type"] == ROW and (len(row["components"]) != 1 or not row["components"][0].get("label")):
            raise invalid("data.components.label", "This field is required", code="BASE_TYPE_REQUIRED")
        if row["type"] == LABEL and row["component"]["type"] == TEXT_INPUT and row["component"].get("label"):
            raise invalid("data.components.label", "A text input in a label has no label of its own")
    for field in fields:
        if field["type"] in SELECTS:
            check_select(field, "data.components")
            if field.get("disabled"):
                raise invalid("data.components.disabled", "A select menu in a modal cannot be disabled")
        least, most = field.get("min_length") or 0, field.get("max_length") or 4000
        if field["type"] == TEXT_INPUT and (least > most or utf16_length(field.get("value") or "") > most):
            raise invalid("data.components.value", f"Must be between {least} and {most} in length.")


def modal_fields(modal: Json) -> list[Json]:
    """The fields of a modal, in order."""
    found = []
    for row in modal["components"]:
        found += row.get("components") or ([row["component"]] if "component" in row else [])
    return found


def check_choices(choices: list[Json]) -> None:
    """Suggestions of an autocomplete."""
    for choice in choices:
        if isinstance(choice["value"], str) and not 1 <= utf16_length(choice["value"]) <= 100:
            raise invalid("data.choices.value", "Must be between 1 and 100 in length.")


def check_commands(commands: list[Json]) -> None:
    """All commands of an application: how many, their names, their options, their total length."""
    kinds = Counter(command.get("type") or 1 for command in commands)
    for kind, limit in COMMANDS.items():
        if kinds[kind] > limit:
            raise ApiError(400, 30032, violation=f"{kinds[kind]} commands of type {kind}")
    names = Counter((command["name"], command.get("type") or 1) for command in commands)
    if repeated := [name for name, times in names.items() if times > 1]:
        raise invalid("name", f"duplicate: {repeated[0]}", code="APPLICATION_COMMANDS_DUPLICATE_NAME")
    for position, command in enumerate(commands):
        where = str(position)
        _check_locales(command, where)
        if (command.get("type") or 1) != 1:
            if command.get("description") or command.get("options"):
                raise invalid(f"{where}.description", "A context menu command has neither description nor options")
            continue
        _check_named(command, where)
        _check_options(command.get("options") or [], where, depth=0)
        if _command_length(command) > COMMAND_LENGTH:
            raise invalid(where, "Command exceeds maximum size", code="APPLICATION_COMMAND_TOO_LARGE")


def _check_locales(node: Json, where: str) -> None:
    """Translations of a command, its options and choices are for languages that Discord's clients have."""
    for key in ("name_localizations", "description_localizations"):
        if unknown := (node.get(key) or {}).keys() - LOCALES:
            raise invalid(f"{where}.{key}", f"Not a locale: {min(unknown)}", code="ENUM_TYPE_COERCE")
    for each in (*(node.get("options") or ()), *(node.get("choices") or ())):
        _check_locales(each, where)


def _check_named(node: Json, where: str) -> None:
    names = [node["name"], *(node.get("name_localizations") or {}).values()]
    if any(not SLASH_NAME.fullmatch(name) or name != name.lower() for name in names):
        raise invalid(f"{where}.name", "Command name is invalid", code="APPLICATION_COMMAND_INVALID_NAME")
    if not node.get("description"):
        raise invalid(f"{where}.description", "This field is required", code="BASE_TYPE_REQUIRED")


def _check_options(options: list[Json], where: str, *, depth: int) -> None:
    nested = [option["type"] in (1, 2) for option in options]
    if any(nested) and not all(nested):
        raise invalid(f"{where}.options", "Sub-commands and options cannot be mixed")
    if len({option["name"] for option in options}) != len(options):
        raise invalid(f"{where}.options", "Option names must be unique", code="APPLICATION_COMMAND_OPTIONS_NAME_EXISTS")
    required = [bool(option.get("required")) for option in options]
    if required != sorted(required, reverse=True):
        raise invalid(f"{where}.options", "Required options must be placed before non-required options",
                      code="APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID")  # fmt: skip
    for option in options:
        _check_named(option, f"{where}.options")
        if (option["type"] == 2 and depth > 0) or (option["type"] == 1 and depth > 1):
            raise invalid(f"{where}.options", "Groups are nested once")
        if option.get("autocomplete") and option.get("choices"):
            raise invalid(f"{where}.options.autocomplete", "An option has choices or autocomplete, not both")
        _check_options(option.get("options") or [], where, depth=depth + 1)


def _command_length(node: Any) -> int:
    """Characters of names, descriptions and values; of translations, the longest counts."""
    own = 0
    for key in ("name", "description"):
        texts = [node.get(key) or "", *(node.get(f"{key}_localizations") or {}).values()]
        own += max(len(text) for text in texts)
    own += len(node["value"]) if isinstance(node.get("value"), str) else 0
    return own + sum(_command_length(each) for key in ("options", "choices") for each in node.get(key) or ())
