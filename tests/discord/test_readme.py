"""The README's section "On Discord", followed step by step: from an empty checkout to a chat by mention.

Commands, settings, permissions, words and buttons are read from the README, so that this fails when one of them does
not hold. Only Discord is a fake: `make run` starts the bot, and the bot starts the real engine with the embedded model.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.discord.harness import ROOT
from tests.fakes.discord.server import FakeDiscord, Guild, Message, User
from tests.fakes.discord.state import Permission
from tests.fork_server import inherited_environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## On Discord\n")[2].partition("\n## ")[0]
STEPS = [" ".join(step.split()) for step in re.findall(r"^\d+\. (.*?)(?=^\d+\. |^!|\Z)", SECTION, flags=re.M | re.S)]
INTENT, TOKEN, INVITE, RUN, TALK = range(5)
ANYONE = Permission.VIEW_CHANNEL | Permission.USE_APPLICATION_COMMANDS
MODEL_TIMEOUT = 200.0  # seconds, until the engine is compiled and loaded on a machine that is busy

pytestmark = pytest.mark.timeout(500)


def code(step: int) -> list[str]:
    """The code spans of a step."""
    return re.findall(r"`([^`]+)`", STEPS[step])


def emphasised(text: str) -> list[str]:
    return re.findall(r"\*([^*]+)\*", text)


def checkout(folder: Path) -> None:
    """A checkout of the program in which everything is installed."""
    for name in ("bot", "engine", "models", "migrations", "pyproject.toml", "constraints.txt", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / ".env.example", folder)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    script = f"#!{sys.executable}\nfrom bot.cli import main\nmain()\n"  # as pip makes it, for pyproject's `guildllama`
    (binaries / "guildllama").write_text(script)
    (binaries / "guildllama").chmod(0o755)
    for stamp in (".python", ".runtime"):
        (folder / ".venv" / stamp).touch()


def invited(discord: FakeDiscord, guild: Guild, *permissions: str) -> None:
    """The bot has the permissions of its link, and nothing else that members may."""
    known = {each.name: each for each in Permission if each.name}
    guild.bot_role.permissions = 0
    for name in permissions:
        guild.bot_role.permissions |= known[name.upper().replace(" ", "_")]
    guild.everyone = ANYONE
    discord.role(guild, "Members", *discord.rest.users.values(), permissions=Permission.SEND_MESSAGES)


@asynccontextmanager
async def running(command: str, folder: Path, discord: FakeDiscord) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command in a shell with the environment activated, as an operator types it.

    Where Discord is, is the only thing that they do not set.
    """
    addresses = {name: value for name, value in discord.environment().items() if not name.endswith("_TOKEN")}
    path = f"{folder}/.venv/bin:{os.environ['PATH']}"
    with (folder / "output.txt").open("wb") as output:
        process = await asyncio.create_subprocess_shell(
            command, cwd=folder,
            env={**inherited_environment(), **addresses, "PYTHONPATH": str(folder), "PATH": path},
            stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 60)


async def answer(discord: FakeDiscord, question: Message) -> Message:
    """The reply to a message, which is still being written."""

    def begun() -> bool:
        return any(not each.content.startswith("-# ⏳") for each in discord.answers(question))

    await discord.until(begun, timeout=MODEL_TIMEOUT)
    return discord.answers(question)[0]


async def stopped(discord: FakeDiscord, message: Message, user: User, label: str) -> None:
    """Do not wait for all of an answer. At its end it has the buttons of a whole one."""
    if message.runs():
        await discord.press(message, user, label=label)
    await discord.until(lambda: not message.runs() and bool(message.buttons()), timeout=60)


def registered(commands: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The slash commands, each with its subcommands, options and choices."""
    return {command["name"]: words_of(command) - {command["name"]} for command in commands if command["type"] == 1}


def words_of(option: dict[str, Any]) -> set[str]:
    below = [*option.get("options", ()), *option.get("choices", ())]
    return {option["name"]}.union(*(words_of(each) for each in below))


def documented() -> dict[str, set[str]]:
    """The same as the table of commands says it."""
    found: dict[str, set[str]] = {}
    for cell in re.findall(r"^\| (`/[^|]*) \|", SECTION, flags=re.M):
        for command, arguments in re.findall(r"`/(\w+)([^`]*)`", cell):
            found.setdefault(command, set()).update(re.findall(r"\w+", arguments))
    return found


async def test_the_steps_of_the_readme_end_in_a_chat_by_mention(tmp_path: Path) -> None:
    assert len(STEPS) == TALK + 1, STEPS
    checkout(tmp_path)
    async with FakeDiscord() as discord:
        # 1. An application whose privileged intents are off, as the fake's are, and its token.
        assert "every privileged intent off" in STEPS[INTENT]
        # 2. The settings.
        init, file = code(TOKEN)
        async with running(init, tmp_path, discord) as asking:
            await asyncio.wait_for(asking.communicate(f"{discord.token}\n\n\n".encode()), 60)
            assert asking.returncode == 0, (tmp_path / "output.txt").read_text()
        assert f"={discord.token}\n" in (tmp_path / file).read_text()
        # 3. The link.
        permissions = emphasised(STEPS[INVITE].partition("the permissions")[2].partition(";")[0])
        assert len(permissions) >= 4
        ann = discord.user("ann")
        guild = discord.guild("Ann's guild")
        invited(discord, guild, *permissions)
        async with running(code(RUN)[0], tmp_path, discord) as bot:
            # 4. It goes online, with its commands.
            try:
                await discord.until_ready(timeout=60)
            except TimeoutError:
                pytest.fail((tmp_path / "output.txt").read_text()[-2000:])
            await discord.until(lambda: discord.rest.commands)
            assert list((tmp_path / "data").glob("*.db")) == [tmp_path / "data" / "guildllama.db"]
            commands = registered(discord.rest.commands)
            for name, arguments in documented().items():
                assert arguments <= commands[name], name
            assert set(documented()) == set(commands)
            # 5. It answers a mention, then a reply and a direct message.
            words = next(each for each in code(TALK) if each.startswith("@"))
            question = await discord.say(guild, ann, words.replace("@YourBot", f"<@{discord.bot.id}>"))
            message = await answer(discord, question)
            buttons = emphasised(SECTION.partition("Under each answer")[2].partition(". Reacting")[0])
            await stopped(discord, message, ann, buttons[0])
            shown = [each["label"] for each in message.buttons() if "label" in each]
            assert set(shown) <= {*buttons, "Thread", "As file"}, shown
            assert {"Regenerate", "Edit", "Forget"} <= set(shown)
            assert {"Regenerate", "Edit", "Forget"} <= set(buttons)
            again = await answer(discord, await discord.say(guild, ann, "And then?", reply_to=message))
            await stopped(discord, again, ann, buttons[0])
            direct = await answer(discord, await discord.say(ann, ann, "Are you there?"))
            await stopped(discord, direct, ann, buttons[0])
            assert all(each.content for each in (message, again, direct))
            assert bot.returncode is None
        assert "\n".join(discord.violations) == ""
