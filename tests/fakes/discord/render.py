"""Pictures of what a user sees: a channel or a modal as HTML, and as a PNG where there is a Chromium.

The look is drawn by us, with nothing of Discord's. Everything that comes from a message is escaped. Knows messages and
HTML; changes nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from PIL import Image, ImageChops

from tests.fakes.discord.messages import SLASH_RESPONSE, THREAD_CREATED, Interaction, Message
from tests.fakes.discord.pictures.markdown import Namer, one_line, to_html
from tests.fakes.discord.pictures.pieces import EYE, attachment_card, avatar, component, embed_card, modal_row
from tests.fakes.discord.state import DM, Channel, Directory, User

STYLE = (Path(__file__).parent / "data" / "screen.css").read_text()
GROUPED_SECONDS = 420
CHROMIUM_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                  "--disable-background-networking", "--disable-component-update", "--hide-scrollbars")  # fmt: skip


class Screen:
    """One user's view of a fake Discord."""

    def __init__(self, directory: Directory, viewer: User) -> None:
        self.directory = directory
        self.viewer = viewer

    def messages(self, channel: Channel) -> list[Message]:
        """What the viewer can see of a channel, in order."""
        everything = sorted(self.directory.messages.values(), key=lambda message: message.id)
        return [message for message in everything
                if message.channel is channel and not message.deleted and self._visible(message)]  # fmt: skip

    def _visible(self, message: Message) -> bool:
        return not message.ephemeral or bool(message.interaction and message.interaction.user is self.viewer)

    def namer(self, channel: Channel) -> Namer:
        guild = channel.guild

        def name(kind: str, key: int) -> str:
            if kind == "#":
                found = self.directory.channels.get(key)
                return f"# {found.name}" if found else "# unknown"
            if kind == "@&":
                roles = guild.all_roles() if guild else []
                return "@" + next((role.name for role in roles if role.id == key), "unknown-role")
            user = self.directory.users.get(key)
            return "@" + (self.called(user, channel) if user else "unknown-user")

        return name

    def called(self, user: User, channel: Channel) -> str:
        return (channel.guild.nicknames.get(user.id) if channel.guild else None) or user.display_name

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def message(self, message: Message, before: Message | None) -> str:
        name = self.namer(message.channel)
        if message.type == THREAD_CREATED and message.thread:
            what = f"<b>{self._who(message)}</b> started a thread: <b>{escape(message.thread.name)}</b>."
            time = f'<span class="time">{_clock(message)}</span>'
            return f'<div class="message system"><span class="arrow">→</span>{what} {time}</div>'
        above = self._above(message, name)
        first = bool(above) or before is None or not _belong_together(before, message)
        pinged = message.mention_everyone or self.viewer in message.mentions
        kinds = {"first": first, "replying": bool(above), "mine-only": message.ephemeral,
                 "pinged": pinged and not message.ephemeral}  # fmt: skip
        head = f"{avatar(message.author)}<div>{self._byline(message)}</div>" if first else ""
        parts = [above, head, self._body(message, name), *(attachment_card(each) for each in message.attachments)]
        parts += [embed_card(embed, name) for embed in message.embeds]
        parts += [component(item, name) for item in message.components]
        if message.reactions:
            parts.append(self._reactions(message))
        if message.thread:
            parts.append(f'<div class="card thread"><div><b>{escape(message.thread.name)}</b>'
                         f"<i>{_num_messages(message.thread)} ›</i></div></div>")  # fmt: skip
        if message.ephemeral:
            parts.append(f'<div class="only">{EYE} Only you can see this • <b>Dismiss message</b></div>')
        shown = " ".join(kind for kind, given in kinds.items() if given)
        return f'<div class="message {shown}">{"".join(parts)}</div>'

    def _who(self, message: Message) -> str:
        return escape(self.called(message.author, message.channel))

    def _byline(self, message: Message) -> str:
        tag = '<span class="tag">APP</span>' if message.author.bot or message.webhook_id else ""
        return f'<span class="name">{self._who(message)}</span>{tag}<span class="time">{_clock(message)}</span>'

    def _above(self, message: Message, name: Namer) -> str:
        """The line above a message: what it replies to, or which command it answers."""
        asked = message.interaction
        if asked and message.type >= SLASH_RESPONSE:
            what = _command_name(asked)
            who = escape(self.called(asked.user, message.channel))
            mini = avatar(asked.user, "mini")
            return f'<div class="used">{mini}<span class="who">{who}</span> used <b>{escape(what)}</b></div>'
        if message.reference is None:
            return ""
        target = message.reference
        if target.deleted or not self._visible(target):
            return '<div class="reply"><span class="gone">Original message was deleted</span></div>'
        tag = '<span class="tag">APP</span>' if target.author.bot else ""
        ping = "@" if target.author in message.mentions else ""
        text = one_line(target.content, name) if target.content else "<i>Click to see attachment</i>"
        who = f'{avatar(target.author, "mini")}{tag}<span class="who">{ping}{self._who(target)}</span>'
        return f'<div class="reply">{who}<span class="what">{text}</span></div>'

    def _body(self, message: Message, name: Namer) -> str:
        if message.loading:
            who = self._who(message)
            return f'<div class="thinking"><span class="dots">•••</span>{who} is thinking…</div>'
        edited = '<span class="edited">(edited)</span>' if len(message.edits) > 1 and not message.interaction else ""
        if not message.content:
            return edited
        text = to_html(message.content, name)
        if text.endswith("</p>"):
            return f'<div class="text">{text.removesuffix("</p>")}{edited}</p></div>'
        return f'<div class="text">{text}{edited}</div>'

    def _reactions(self, message: Message) -> str:
        pills = [
            f'<span class="reaction{" me" if self.viewer in users else ""}">{escape(emoji)} {len(users)}</span>'
            for emoji, users in message.reactions.items()
        ]
        return f'<div class="reactions">{"".join(pills)}</div>'


def html(channel: Channel, *, viewer: User, width: int = 900) -> str:
    """A channel as a user sees it, with the messages that only they can see. `width`: 900 or, as on a phone, 480."""
    assert channel.directory
    screen, bot = Screen(channel.directory, viewer), channel.directory.bot
    shown = screen.messages(channel)
    log = "".join(screen.message(message, before) for message, before in zip(shown, [None, *shown], strict=False))
    if channel.guild is None:
        title = f"<span class='hash'>@</span>{escape(bot.display_name if channel.kind == DM else channel.name)}"
        write = f"Message @{bot.display_name}"
    elif channel.parent:
        title = f"<span class='parent'># {escape(channel.parent.name)} ›</span> {escape(channel.name)}"
        write = f"Message “{channel.name}”"
    else:
        title = f"<span class='hash'>#</span>{escape(channel.name)}"
        write = f"Message #{channel.name}"
    state = "locked" if channel.locked else "archived" if channel.archived else ""
    box = (
        f"<div class='write closed'>This thread is {state}</div>"
        if state
        else f"<div class='write'>{escape(write)}</div>"
    )
    return _document(f'<div class="bar">{title}</div><div class="log">{log}</div>{box}', width)


def modal_html(interaction: Interaction, *, width: int = 480) -> str:
    """The modal that an interaction opened."""
    modal = interaction.modal
    assert modal, "no modal is open"
    fields = "".join(modal_row(row) for row in modal["components"])
    head = f'<div class="head">{avatar(None)}<span>{escape(modal["title"])}</span></div>'
    feet = '<div class="feet"><span class="button">Cancel</span><span class="button style1">Submit</span></div>'
    return _document(
        f'<div class="stage"><div class="modal">{head}<div class="body">{fields}</div>{feet}</div></div>', width
    )


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


async def screenshot(page: str, target: Path, *, scale: float = 2.0, height: int = 4000) -> None:
    """Write a page of `html` or `modal_html` as a PNG, cut to what it shows."""
    program = chromium()
    assert program, "there is no Chromium: apt-get install chromium"
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            program, *CHROMIUM_FLAGS, f"--user-data-dir={folder}/profile", f"--force-device-scale-factor={scale}",
            f"--window-size=1200,{height}", f"--screenshot={folder}/page.png", _save(page, Path(folder, "page.html")),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        _cut(Path(folder, "page.png"), target)


def _save(page: str, source: Path) -> str:
    source.write_text(page)
    return source.as_uri()


def _cut(raw: Path, target: Path) -> None:
    """Cut away the black around the screen, and store it with few colours."""
    with Image.open(raw) as picture:
        whole = picture.convert("RGB")
    shown = ImageChops.difference(whole, Image.new("RGB", whole.size, (0, 0, 0))).getbbox()
    whole.crop(shown).quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def _num_messages(thread: Channel) -> str:
    """How many messages a thread at a message has, beside its first one."""
    number = thread.num_messages - 1
    return "See Thread" if number < 1 else f"{number} Message{'s' if number > 1 else ''}"


def _belong_together(before: Message, message: Message) -> bool:
    """Whether a message is shown without a name of its own, below one of the same author."""
    return (
        before.author is message.author
        and before.type != THREAD_CREATED
        and before.ephemeral == message.ephemeral
        and message.created_at - before.created_at <= GROUPED_SECONDS
    )


def _document(body: str, width: int) -> str:
    narrow = "narrow" if width < 600 else ""
    return (f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>'
            f'<div id="screen" class="{narrow}" style="width:{width}px">{body}</div>')  # fmt: skip


def _clock(message: Message) -> str:
    return f"{datetime.fromtimestamp(message.created_at, UTC):%H:%M}"


def _command_name(interaction: Interaction) -> str:
    """ "/persona set", or the name of a menu command."""
    if interaction.data.get("type", 1) != 1:
        return str(interaction.data["name"])
    parts, options = [interaction.data["name"]], interaction.data.get("options", ())
    while options and options[0]["type"] in (1, 2):
        parts.append(options[0]["name"])
        options = options[0].get("options", ())
    return "/" + " ".join(parts)
