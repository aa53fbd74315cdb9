"""Every text is translated, with the values of the original, within Discord's limits; no translation is left over."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from string import Formatter
from unittest.mock import MagicMock

import pytest
from babel.messages.catalog import Catalog, Message
from discord import Locale
from discord.app_commands import ContextMenu, TranslationContext, TranslationContextLocation, locale_str

from bot.discord_app.registration.command_texts import COMMAND, CommandTexts
from bot.discord_app.splitting.code_fences import utf16_length
from bot.i18n.catalogues import translations
from bot.i18n.josa import without_particles
from tests.messages.catalogue_files import missing, read, write
from tests.messages.extraction import catalogue_files, command_texts, commands, template

HELP = "make messages"
LONGEST = {"command": 100, "button": 80, "stored": 60, "permission": 60, "thing": 20, "can … it": 40}
"""Characters of the texts of a context: descriptions and choices of commands, labels of buttons, and what is put into
sentences."""


@pytest.fixture(scope="module")
def texts() -> Catalog:
    return template()


@pytest.mark.parametrize("path", catalogue_files(), ids=lambda path: path.stem)
class TestCatalogue:
    def test_is_what_extraction_makes_of_it(self, path: Path, texts: Catalog, tmp_path: Path) -> None:
        catalogue = read(path)
        catalogue.update(texts, no_fuzzy_matching=True, update_header_comment=False, update_creation_date=False)
        assert [each.id for each in catalogue.obsolete.values()] == [], f"no code has these texts any more: {HELP}"
        again = tmp_path / path.name
        write(again, catalogue)
        assert again.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), HELP

    def test_has_a_translation_of_every_text(self, path: Path, texts: Catalog) -> None:
        catalogue = read(path)
        absent = [each.id for each in texts if each.id and catalogue.get(first(each.id), each.context) is None]
        assert absent == [], HELP
        assert [each.id for each in missing(catalogue)] == []

    def test_has_the_placeholders_of_the_originals(self, path: Path) -> None:
        for message in messages(path):
            wanted = set().union(*map(placeholders, strings(message.id)))
            given = [placeholders(without_particles(text)) for text in strings(message.string)]
            needed = wanted if isinstance(message.id, str) else wanted - {"number"}
            assert all(needed <= names <= wanted for names in given), message.id

    def test_keeps_commands_and_marks(self, path: Path) -> None:
        """What is typed, linked or laid out by Discord is the same in all languages."""
        for message in messages(path):
            for text in strings(message.string):
                original = strings(message.id)[-1]
                assert {*CODE.findall(text)} == {*CODE.findall(original)}, message.id
                assert text.startswith("-# ") == original.startswith("-# "), message.id
                assert text.count("\n") == original.count("\n"), message.id
                assert text.count("**") == original.count("**"), message.id

    def test_keeps_to_the_limits_of_discord(self, path: Path) -> None:
        for message in messages(path):
            for text in (*strings(message.id), *strings(message.string)):
                assert len(text) <= LONGEST.get(message.context or "", 2000), text
                assert utf16_length(FIELD.sub("x" * 40, text)) <= 2000, text


class TestCommands:
    def test_descriptions_and_choices_fit(self) -> None:
        for language, catalogue in translations().items():
            for text in command_texts():
                assert 1 <= len(catalogue.pgettext(COMMAND, text)) <= 100, (language, text)

    def test_entries_of_message_menus_fit_and_differ(self) -> None:
        names = {each.name for each in commands() if isinstance(each, ContextMenu)}
        assert "Ask about this" in names
        for catalogue in translations().values():
            shown = [catalogue.pgettext(COMMAND, name) for name in names]
            assert len(set(shown)) == len(names)
            assert all(1 <= len(name) <= 32 for name in shown)

    def test_names_of_commands_stay_english(self) -> None:
        command = TranslationContext(location=TranslationContextLocation.command_name, data=MagicMock())
        assert asyncio.run(CommandTexts().translate(locale_str("reset"), Locale.korean, command)) is None

    def test_menus_are_translated_for_korean_alone(self) -> None:
        async def callback(interaction: object, message: object) -> None: ...

        menu = ContextMenu.__new__(ContextMenu)
        context = TranslationContext(location=TranslationContextLocation.command_name, data=menu)
        name = locale_str("Ask about this")
        assert asyncio.run(CommandTexts().translate(name, Locale.korean, context)) == "이 메시지에 대해 질문하기"
        assert asyncio.run(CommandTexts().translate(name, Locale.german, context)) is None


CODE = re.compile(r"`[^`]+`|<@\{bot_id\}>|(?<![\w`])/[a-z]+")
FIELD = re.compile(r"\{[^{}]*\}")


def messages(path: Path) -> list[Message]:
    return [message for message in read(path) if message.id]


def first(message: str | tuple[str, ...] | list[str]) -> str:
    return message if isinstance(message, str) else message[0]


def strings(text: str | tuple[str, ...] | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def placeholders(text: str) -> set[str]:
    """The fields of a template, with how they are formatted."""
    if "{{" in text:
        return set(re.findall(r"\{\{\w+\}\}", text))
    return {name + (f":{spec}" if spec else "") for _, name, spec, _ in Formatter().parse(text) if name}
