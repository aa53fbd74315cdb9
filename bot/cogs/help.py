"""/help: what members can ask of the bot."""

from __future__ import annotations

from collections.abc import Sequence

from discord import app_commands
from discord.ext import commands

from bot.cogs.privacy import privacy_lines
from bot.discord_app.caller import Caller, caller_of
from bot.discord_app.context import Interaction
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.discord_app.splitting.code_fences import utf16_length
from bot.discord_app.splitting.message_split import MESSAGE_LIMIT
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from bot.settings import Settings

_FOR_EVERYBODY = N_(
    """\
**/chat** `message` `file` … – talk to me, with up to four files; with `private: True` only you see the answer
**Ask about this** – in the menu of a message (under *Apps*): ask me about what it says
**/regenerate** – another answer to your last message, in place of the one before
**/thread** `start` – a thread in this channel, in which all who write share one conversation with me
**/reset** `here` · `everywhere` – start a new conversation; personas and notes about you stay
**/history** `show` · `search` · `export` · `edit` · `forget` · `undo` · `why` – what we said, for you alone; `undo` \
takes a reset back
**/memory** `on` · `off` · `show` · `add` · `edit` · `forget` – what I remember about you, if you want me to
**Why this answer?** – in the menu of an answer to you: what I had before me when I wrote it
**/conversation** `new` · `list` · `switch` · `rename` · `delete` – keep several conversations
**/persona** `show` · `list` – who answers you here, and why; who else there is
**/me persona** `set` · `show` · `list` · `create` · `edit` · `delete` · `clear` · `versions` · `rollback` – who I am \
for you, here; `picture` gives one a picture
**/me persona** `import` · `export`, **Import character card** in the menu of a message – character cards
**/scene** `list` – who plays in this channel or thread; `add` · `remove` · `speak` – for managers, and for you in a \
thread that you started
**/report**, **Report this answer** in its menu – tell the admins here that an answer is bad
**/me settings** – what you decide for yourself here
**/quota** · **/queue** – your limits, and your waiting messages
**/privacy** `show` · `export` · `delete` · `optout` · `optin` – what I have stored about you"""
)
_FOR_MANAGERS = N_(
    """\
**/persona** `set` · `clear` · `create` · `edit` · `tags` · `delete` · `versions` · `rollback` – who I am in this \
guild, a category, a channel or a thread
**/persona** `import` · `export` – character cards for this guild
**/persona** `face` · `picture` – how members see which persona answers
**/persona** `allow` · `lock` · `unlock` – who may have a persona of their own, and where it answers
**/config** `panel` · `show` · `set` · `model` · `reset` · `channels` · `roles` · `memory` · `limits` · `filter` · \
`export` · `import` – what this guild decides, which model answers, where I answer whom, how much, who shares a \
conversation, whether I take notes
**/admin** `user` · `block` · `unblock` – what a member uses; refuse to talk with one, for some time or for good
**/admin** `stats` · `audit` – how much I am used; what admins did with me
**/admin** `purge` · `reports` – delete conversations, notes or personas; answers that members reported"""
)
_MEMORY = N_(
    """\
Every member has a conversation of their own with me in each guild (in each channel, where a guild wants it so), and \
another one in direct messages. Nobody else sees it, and I take nothing from one to the other. In threads started with \
`/thread start`, and where a guild wants it so, all who write share one conversation; with `private` you stay alone. \
What a file says is remembered like what you write; of a picture I keep only the name."""
)

_ABSENT = N_(
    """\
I am not a member here: you brought me along. So the conversation of our direct messages goes on here, with the \
persona that you chose there, and nothing of this place is kept but what you say to me and the messages that you ask \
me about. Others see an answer unless it is private, or Discord hides it."""
)


class Help(commands.Cog):
    """Lists the commands that this member may use here."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @app_commands.command(name="help", description="What you can ask me to do.")
    async def help_command(self, interaction: Interaction) -> None:
        """/help."""
        first, *more = help_messages(caller_of(interaction), privacy_lines(self._settings))
        await interaction.response.send_message(first, ephemeral=True, allowed_mentions=NO_MENTIONS)
        for text in more:
            await interaction.followup.send(text, ephemeral=True, allowed_mentions=NO_MENTIONS)


def help_messages(caller: Caller, privacy: Sequence[str] = ()) -> list[str]:
    """What this caller can ask of the bot here, and what the operator says of members' data (`privacy`).

    A further message begins where Discord's 2,000 characters are full.
    """
    parts = [_(_FOR_EVERYBODY), _(_ABSENT if caller.bot_is_absent else _MEMORY)]
    if caller.manages_guild:
        parts.append(_(_FOR_MANAGERS))
    return _packed([*parts, "\n".join(privacy)] if privacy else parts)


def _packed(parts: Sequence[str]) -> list[str]:
    """The parts in as few messages as hold them, each part with its lines together where it fits."""
    messages: list[str] = []
    full = [chunk for part in parts for chunk in _chunks(part)]
    for number, chunk in enumerate(full):
        if number and utf16_length(f"{messages[-1]}\n\n{chunk}") <= MESSAGE_LIMIT:
            messages[-1] += f"\n\n{chunk}"
        else:
            messages.append(chunk)
    return messages


def _chunks(part: str) -> list[str]:
    """The lines of a part, as many together as a message holds."""
    chunks: list[str] = []
    for line in part.split("\n"):
        if chunks and utf16_length(f"{chunks[-1]}\n{line}") <= MESSAGE_LIMIT:
            chunks[-1] += f"\n{line}"
        else:
            chunks.append(line)
    return chunks
