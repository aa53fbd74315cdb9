"""Pictures of the fake Discord: what is shown to whom, that nothing of a message becomes HTML, and a PNG."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.discord.fake.fake_client import PLAIN, RawClient
from tests.fakes.discord import render
from tests.fakes.discord.pictures.markdown import to_html
from tests.fakes.discord.server import Attachment, FakeDiscord, Guild, Interaction, User

EVIL = '<script>alert("1")</script>'


async def answered(fake: FakeDiscord, raw: RawClient, guild: Guild, user: User, **data: object) -> Interaction:
    asked = await fake.force_command(guild.channel, guild, user, "1", "chat")
    path = f"/interactions/{asked.id}/{asked.token}/callback"
    assert await raw.code("POST", path, {"type": 4 if data else 5, "data": {**PLAIN, **data}}) == 0
    return asked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**a** *b* ***c*** __d__ ~~e~~", "<b>a</b> <i>b</i> <b><i>c</i></b> <u>d</u> <s>e</s>"),
        ("*a **b** c*", "<i>a <b>b</b> c</i>"),
        ("`**a**` ``b ` c``", "<code>**a**</code> <code>b ` c</code>"),
        (r"\*a\* snake_case_word 2 * 3 * 4", "*a* snake_case_word 2 * 3 * 4"),
        ("||secret||", '<span class="spoiler">secret</span>'),
        ("<@1> <@!2> <@&3> <#4>", "@1 @2 @&amp;3 #4"),
        ("[a](https://x.org/b_(c))", '<a title="https://x.org/b_(c)">a</a>'),
        ("[a](javascript:alert)", "[a](javascript:alert)"),
        ("(https://x.org/a_b).", "(<a>https://x.org/a_b</a>)."),
        ("a\nb", "a<br>b"),
        ("- a\n  - b\n1. c", "• a ◦ b 1. c"),
    ],
)
def test_markdown_is_shown_as_discord_shows_it(text: str, shown: str) -> None:
    html = to_html(text, lambda kind, key: f"{kind}{key}")
    html = re.sub(r'<span class="mention">([^<]*)</span>', r"\1", html).removeprefix("<p>").removesuffix("</p>")
    if "•" in shown:
        html = " ".join(re.sub("<[^>]*>", " ", html).split())
    assert html == shown


def test_blocks() -> None:
    html = to_html("# A\n> b\n> c\n-# d\n```py\nif a < b:\n    pass\n```\n>>> e\nf", lambda kind, key: "")
    assert html == (
        "<h1>A</h1><blockquote><p>b<br>c</p></blockquote><small>d</small>"
        '<pre data-language="py"><code>if a &lt; b:\n    pass</code></pre><blockquote><p>e<br>f</p></blockquote>'
    )


@pytest.mark.parametrize("text", ["*" * 4000, "_*" * 2000, "[" * 4000, "`" * 3999, "||" * 1999 + "a", "https://" * 500])
def test_no_text_takes_long(text: str) -> None:
    started = time.monotonic()
    to_html(text, lambda kind, key: "")
    assert time.monotonic() - started < 2


async def test_everything_is_escaped(fake: FakeDiscord, raw: RawClient, guild: Guild) -> None:
    eve = fake.user(EVIL)
    guild.channel.name = EVIL
    said = await fake.say(guild, eve, f"{EVIL} `{EVIL}` ```{EVIL}``` [{EVIL}](https://x.org/{EVIL})",
                          files=[Attachment(f"{EVIL}.txt", b"x")])  # fmt: skip
    await fake.thread(guild.channel, EVIL, user=eve, message=said)
    button = {"type": 2, "style": 1, "custom_id": EVIL, "label": EVIL}
    embed = {"title": EVIL, "description": EVIL, "footer": {"text": EVIL}, "fields": [{"name": EVIL, "value": EVIL}]}
    components = [{"type": 1, "components": [button]}]
    await answered(fake, raw, guild, eve, content=EVIL, embeds=[embed], components=components)
    page = render.html(guild.channel, viewer=eve)
    assert "<script" not in page
    assert page.count("&lt;") > 10
    asked = await fake.force_command(guild.channel, guild, eve, "1", "chat")
    field = {"type": 4, "custom_id": "a", "style": 2, "value": EVIL, "max_length": 100}
    modal = {"title": EVIL, "custom_id": "m", "components": [{"type": 18, "label": EVIL, "component": field}]}
    await raw.send("POST", f"/interactions/{asked.id}/{asked.token}/callback", {"type": 9, "data": modal})
    page = render.modal_html(asked)
    assert "<script" not in page
    assert "27/100" in page


async def test_a_picture_shows_what_its_viewer_sees(fake: FakeDiscord, raw: RawClient, guild: Guild, ann: User) -> None:
    bob = fake.user("bob")
    said = await fake.say(guild, bob, f"Hello <@{ann.id}>")
    gone = await fake.say(guild, bob, "Gone")
    await fake.say(guild, ann, "What?", reply_to=gone)
    await fake.delete(gone)
    await fake.react(said, ann, "👍")
    await answered(fake, raw, guild, ann, content="A secret", flags=64)
    await answered(fake, raw, guild, bob)
    anns, bobs = (render.html(guild.channel, viewer=user, width=480) for user in (ann, bob))
    assert "A secret" in anns
    assert "Only you can see this" in anns
    assert "A secret" not in bobs
    assert "@Ann" in bobs
    assert 'class="reaction me"' in anns
    assert 'class="reaction"' in bobs
    for page in (anns, bobs):
        assert "Guildllama is thinking…" in page
        assert "Original message was deleted" in page
        assert ">Gone<" not in page
        assert "used <b>/chat</b>" in page


async def test_a_thread_says_that_it_is_closed(fake: FakeDiscord, guild: Guild, ann: User) -> None:
    thread = await fake.thread(guild.channel, "Llamas", user=ann)
    assert "started a thread: <b>Llamas</b>" in render.html(guild.channel, viewer=ann)
    await fake.archive(thread, True)
    assert "This thread is locked" in render.html(thread, viewer=ann)


@pytest.mark.skipif(render.chromium() is None, reason="there is no Chromium")
async def test_a_picture_is_cut_to_the_screen(fake: FakeDiscord, guild: Guild, ann: User, tmp_path: Path) -> None:
    await fake.say(guild, ann, "Hello")
    await render.screenshot(render.html(guild.channel, viewer=ann, width=480), tmp_path / "a.png", scale=1)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 480
        assert 100 < picture.height < 300
        assert len(picture.getcolors(1 << 24) or ()) > 10
