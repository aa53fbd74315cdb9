"""/help: what members can ask of the bot."""

from __future__ import annotations

from discord import app_commands
from discord.ext import commands

from bot.discord_app.context import Interaction
from bot.discord_app.message_api import NO_MENTIONS

_FOR_EVERYBODY = """\
**/chat** `message` `file` … – talk to me, with up to four files; with `private: True` only you see the answer
**/regenerate** – another answer to your last message, in place of the one before
**/thread** `start` – a thread in this channel, in which all who write share one conversation with me
**/reset** `here` · `everywhere` – start a new conversation; personas stay
**/history** `show` · `search` · `export` · `edit` · `forget` · `undo` – what we said, for you alone; `undo` takes a \
reset back
**/conversation** `new` · `list` · `switch` · `rename` · `delete` – keep several conversations
**/me persona** `set` · `show` · `clear` · `versions` · `rollback` – who I am for you, here
**/privacy** `show` · `export` · `delete` · `optout` · `optin` – what I have stored about you"""
_FOR_MANAGERS = """\
**/persona** `set` · `show` · `clear` · `versions` · `rollback` – who I am in this guild
**/config** `show` · `set` · `reset` · `channels` · `roles` – what this guild decides, where I answer whom, who shares \
a conversation"""
_MEMORY = """\
Every member has a conversation of their own with me in each guild (in each channel, where a guild wants it so), and \
another one in direct messages. Nobody else sees it, and I take nothing from one to the other. In threads started with \
`/thread start`, and where a guild wants it so, all who write share one conversation; with `private` you stay alone. \
What a file says is remembered like what you write; of a picture I keep only the name."""


class Help(commands.Cog):
    """Lists the commands that this member may use here."""

    @app_commands.command(name="help", description="What you can ask me to do.")
    async def help_command(self, interaction: Interaction) -> None:
        """/help."""
        lines = [_FOR_EVERYBODY, _FOR_MANAGERS] if interaction.permissions.manage_guild else [_FOR_EVERYBODY]
        text = "\n".join(lines) + f"\n\n{_MEMORY}"
        await interaction.response.send_message(text, ephemeral=True, allowed_mentions=NO_MENTIONS)
