"""What Discord limits more than a message is short enough in every language: labels, titles, placeholders, choices."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.cogs.dialogs.whose import PRIVATE, SHARED
from bot.cogs.help import help_messages
from bot.cogs.personas.library import _TITLES
from bot.cogs.personas.text import KEEP_OR_AFRESH, MODAL_TITLES
from bot.discord_app.caller import Caller
from bot.discord_app.splitting.code_fences import utf16_length
from bot.i18n import language as i18n
from bot.i18n.catalogues import translations
from bot.i18n.language import gettext, use_language
from tests.messages.extraction import CONTEXT, PLAIN, PLURAL, marked_texts

ROOT = Path(__file__).parents[3]
LIMITS = {
    ("Modal", "title"): 45,
    ("Label", "text"): 45,
    ("Label", "description"): 100,
    ("TextInput", "placeholder"): 100,
    ("button", "0"): 80,
    ("_button", "0"): 80,
    ("Button", "label"): 80,
    ("SelectOption", "label"): 100,
    ("SelectOption", "description"): 100,
    ("Select", "placeholder"): 150,
}
"""Characters that Discord takes, by what shows the text and which argument it is."""
CONSTANTS = {
    45: [*MODAL_TITLES.values(), *_TITLES.values()],
    80: [PRIVATE, SHARED, *(label for labels in KEEP_OR_AFRESH.values() for label in labels)],
}
"""Texts that are shown by way of a constant."""


def shown_texts() -> Iterator[tuple[str, str | None, str, int]]:
    """Each text that is marked where it is shown, with its context, and how long it may be."""
    for file in sorted((ROOT / "bot").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            given = {str(index): each for index, each in enumerate(node.args)}
            given |= {each.arg: each.value for each in node.keywords if each.arg}
            for argument, value in given.items():
                if (limit := LIMITS.get((name, argument))) is not None:
                    for context, text in marked_texts(value):
                        assert isinstance(text, str)
                        yield str(file.relative_to(ROOT)), context, text, limit


@pytest.mark.parametrize("language", translations())
def test_labels_titles_and_placeholders_fit(language: str) -> None:
    catalogue, shown = translations()[language], list(shown_texts())
    assert len(shown) > 20
    for file, context, text, limit in shown:
        told = catalogue.pgettext(context, text) if context else catalogue.gettext(text)
        assert 1 <= len(told) <= limit, (file, told)


@pytest.mark.parametrize("language", translations())
def test_labels_and_titles_of_constants_fit(language: str) -> None:
    with use_language(language):
        for limit, texts in CONSTANTS.items():
            assert all(1 <= len(gettext(text)) <= limit for text in texts)


@pytest.mark.parametrize("language", translations())
@pytest.mark.parametrize("absent", [False, True])
def test_help_fits_into_its_messages(language: str, absent: bool) -> None:
    caller = Caller(1, 2, 3, 3, "ann", manages_guild=not absent, bot_is_absent=absent)
    with use_language(language):
        assert all(utf16_length(text) <= 2000 for text in help_messages(caller))


def test_extraction_knows_every_function_that_marks_a_text() -> None:
    parameters = {
        name: [*inspect.signature(each).parameters] for name, each in inspect.getmembers(i18n, inspect.isfunction)
    }
    assert {name for name, given in parameters.items() if given == ["message"]} | {"_"} == PLAIN
    assert {name for name, given in parameters.items() if given == ["context", "message"]} == CONTEXT
    assert {name for name, given in parameters.items() if given[:2] == ["singular", "plural"]} == PLURAL
