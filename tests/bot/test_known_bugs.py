"""Bugs that other bots had, as far as the source itself shows that ours does not have them."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

from bot.discord_app.replies.message_text import readable_text
from bot.discord_app.splitting.message_split import split_message

SOURCES = sorted((Path(__file__).parents[2] / "bot").rglob("*.py"))


PATTERN_FUNCTIONS = {f"re.{name}" for name in dir(re) if name != "escape"}


def test_b31_no_pattern_comes_from_a_member_and_hostile_text_takes_no_time() -> None:
    patterns = [
        ast.unparse(call.args[0])
        for source in SOURCES
        if "engine_client" not in source.parts  # knows no members; its patterns are lists of its own
        for call in ast.walk(ast.parse(source.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in PATTERN_FUNCTIONS and call.args
        and not isinstance(call.args[0], ast.Constant)
    ]  # fmt: skip
    assert [
        each for each in patterns if not re.fullmatch(r"[rf]*'.*'|_?[A-Z_]+", each) and "re.escape" not in each
    ] == []
    began = time.monotonic()
    for text in ("<@" * 20_000, "`" * 40_000, "```\n" * 10_000, "*_~|>" * 8_000, "\n" * 40_000, "\u202e" * 40_000):
        list(split_message(text))
        readable_text(text[:4000], bot_id=1, names={})
    assert time.monotonic() - began < 10


def test_b32_no_view_waits() -> None:
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            made = [each for each in ast.walk(function) if isinstance(each, ast.Call)
                    and ast.unparse(each.func) in ("View", "Modal", "discord.ui.View", "discord.ui.Modal")]  # fmt: skip
            text = ast.unparse(function)
            assert not made or ".stop()" in text, f"{source.name}: {function.name} leaves a view behind"
            assert not made or ".wait()" not in text, f"{source.name}: {function.name} waits for a view"
