"""No text reaches people without being marked for translation: found in the code itself, not by running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.cogs.privacy import STORED
from bot.discord_app.permissions.actions import MENU_ACTIONS
from bot.discord_app.permissions.authorise import CHANGES
from bot.errors import THINGS
from models.queries.privacy.holdings import _row_counts

ROOT = Path(__file__).parents[3]
FOLDERS = (
    "cogs", "discord_app", "chat", "guilds", "memory", "safety", "characters", "attachments", "engine_client", "errors",
)  # fmt: skip
FILES = (ROOT / "bot/storage.py", ROOT / "bot/text.py")
TRANSLATES = {"_", "N_", "NP_", "gettext", "ngettext", "pgettext"}
SHOWS = {
    "BotError", "Hint", "NotAllowed", "CardRefused", "not_a_card", "FileRefused",
    "answer", "announce", "respond", "send_message", "send_modal", "edit_original_response", "finish", "send_error",
    "button", "_button", "Button", "Label", "Modal", "SelectOption",
}  # fmt: skip
"""What shows its arguments to people, or raises them."""
OPERATOR = {"reason", "custom_id", "name", "nonce", "format", "emoji", "value", "style"}
"""Arguments of these that are for the log, for Discord or for the program."""
OF_COMMANDS = {"command", "Group", "describe", "Choice", "ContextMenu", "choices"}
"""What discord.py has translated by `CommandTexts`; extraction finds it at the commands."""
LOGS = {"log"}


def modules() -> list[Path]:
    return [*FILES, *(file for folder in FOLDERS for file in sorted((ROOT / "bot" / folder).rglob("*.py")))]


def name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts with letters in an expression that are not marked."""
    if isinstance(node, ast.Call):
        name = name_of(node.func)
        if name in TRANSLATES or name in OF_COMMANDS:
            return
        if name == "get" or (isinstance(node.func, ast.Attribute) and name_of(node.func.value) in LOGS):
            return
    if isinstance(node, ast.Subscript | ast.Compare):
        return  # a key of a table, or what something is compared with
    if isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
        return
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from literals(part.value)
        node = ast.Constant("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)),
                            lineno=node.lineno)  # fmt: skip
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and LETTERS.search(WITHOUT_CODE.sub("", node.value)) and not is_word(node.value):
            yield node.lineno, node.value
        return
    for child in ast.iter_child_nodes(node):
        yield from literals(child)


LETTERS = re.compile(r"[A-Za-z]{2}")
WITHOUT_CODE = re.compile(r"`[^`]*`|\{\w+\}|https?://\S+|<t:|UTC|:R>|:f>")


def shown_unmarked(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Texts that are passed, as they are, to what shows them."""
    errors = error_classes(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        raises = isinstance(node.func, ast.Attribute) and node.func.attr == "__init__" and node in errors
        if name_of(node.func) in SHOWS or raises:
            given = [*node.args, *(each.value for each in node.keywords if each.arg not in OPERATOR)]
            for argument in given:
                yield from literals(argument)
        elif name_of(node.func) == "EngineUnavailable":  # the first argument is for the log
            for argument in node.args[1:]:
                yield from literals(argument)


def error_classes(tree: ast.Module) -> set[ast.Call]:
    """The calls of `super().__init__` in the classes of errors that people read."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name != "ConfigError":
            bases = {name_of(base) for base in node.bases}
            if bases & {"BotError", "Hint"}:
                found |= {each for each in ast.walk(node) if isinstance(each, ast.Call)}
    return found


def is_word(value: object) -> bool:
    """An identifier, such as the word of a custom id or what `EmptyText` is of."""
    return isinstance(value, str) and re.fullmatch(r"[a-z_:-]*", value) is not None


def sentences(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Texts that read like sentences and are marked nowhere: in constants, in what functions return."""
    skipped = documented(tree)
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in TRANSLATES | OF_COMMANDS or (
                isinstance(node.func, ast.Attribute) and name_of(node.func.value) in LOGS
            ):
                continue
            stack += [node.func, *node.args, *(each.value for each in node.keywords if each.arg not in OPERATOR)]
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and name_of(node.exc.func) in INTERNAL:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
            if SENTENCE.search(text):
                yield node.lineno, text
            stack += [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
            continue
        if isinstance(node, ast.Constant) and node not in skipped:
            if isinstance(node.value, str) and SENTENCE.search(node.value):
                yield node.lineno, node.value
            continue
        stack += ast.iter_child_nodes(node)


SENTENCE = re.compile(r"(?s)^[^A-Za-z\[]{0,6}[A-Z][^\n]* [^\n]*[a-z].*[.?:!…]$|^-# \S* ?[A-Za-z]{2,}.* [a-z]")
INTERNAL = {"ConfigError", "RuntimeError", "ValueError", "OSError", "SinkUnreachable", "DeliveryTaken"}
OTHERS = {
    "attachments/frame.py",
    "characters/assembly.py",
    "characters/files/export.py",
    "chat/scenes/choosing.py",
    "discord_app/connection.py",
    "engine_client/images/support.py",
    "memory/prompts.py",
    "storage.py",
}
"""Sentences of these are for the model, for readers of a file, or for the operator."""


def documented(tree: ast.Module) -> set[ast.AST]:
    """Docstrings, also those of attributes."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT / "bot")))
def test_texts_for_people_are_marked(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert list(shown_unmarked(tree)) == []


@pytest.mark.parametrize(
    "file",
    [file for file in modules() if file.parts[-2] != "prompts" and str(file.relative_to(ROOT / "bot")) not in OTHERS],
    ids=lambda file: str(file.relative_to(ROOT / "bot")),
)
def test_no_sentence_is_left_unmarked(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert [each for each in sentences(tree) if each[1] not in MENU_ACTIONS] == []


def calls(name: str) -> Iterator[ast.Call]:
    for file in sorted((ROOT / "bot").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and name_of(node.func) == name:
                yield node


@pytest.mark.parametrize(
    ("function", "known"),
    [("EmptyText", THINGS), ("NulCharacters", THINGS), ("TooLong", THINGS), ("authorise_shared", CHANGES)],
)
def test_words_in_sentences_are_marked(function: str, known: frozenset[str]) -> None:
    given = [each.value for call in calls(function) for each in call.args if isinstance(each, ast.Constant)]
    assert given
    assert {each for each in given if isinstance(each, str)} - {"tokens", "characters"} <= known


def test_the_names_of_stored_rows_are_marked() -> None:
    assert {name.replace("_", " ") for name in [*_row_counts(1, None), "users"]} <= STORED


def test_nothing_hides_the_function_that_translates() -> None:
    """A variable `_` in a function makes `_("…")` of the same function fail when it runs."""
    for file in sorted((ROOT / "bot").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                stored = [each for each in ast.walk(node) if is_throwaway(each) and not in_comprehension(node, each)]
                called = [each for each in ast.walk(node) if isinstance(each, ast.Call) and name_of(each.func) == "_"]
                assert not (stored and called), f"{file}:{node.lineno}"


def is_throwaway(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "_" and isinstance(node.ctx, ast.Store)


def in_comprehension(function: ast.AST, name: ast.AST) -> bool:
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return any(name in ast.walk(each) for each in ast.walk(function) if isinstance(each, kinds))
