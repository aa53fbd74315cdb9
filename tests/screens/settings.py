"""The settings of a guild and of a member: their panels, forms and files, and what a guild filters."""

from __future__ import annotations

from tests.discord.harness import World
from tests.fakes.discord.server import Attachment, Message, User
from tests.screens.pictures import form_picture, picture


async def settings(here: World) -> None:
    """The panel of a guild's settings, page by page, a form, and what a file would change."""
    boss, ann = here.discord.user("boss"), here.discord.user("ann")
    guild = here.discord.guild("boss's guild", managers=(boss,))
    friends = here.discord.role(guild, "friends", ann)
    await here.discord.join(guild)
    category = here.discord.category(guild, "Library")
    bots, place = here.discord.channel(guild, "bots"), here.discord.channel(guild, "settings")
    for each in (category, bots, place):
        await here.discord.announce(each)
    await here.use(guild, boss, "config set", max_chat_logs=6, idle_time="36h", daily_messages=200)
    for channel in (guild.channel, bots):
        await here.use(guild, boss, "config channels add", channel=channel)
    await here.use(guild, boss, "config channels scope", channel=bots, scope="thread")
    await here.use(guild, boss, "config roles add", role=friends)
    await here.use(guild, boss, "config limits role", role=friends, daily_messages=500, running_replies=2)
    await here.use(guild, boss, "config limits set", minute_messages=10, guild_daily_tokens=2_000_000)
    await here.use(guild, boss, "config filter words", action="add", words="gosh*, darn, very silly")
    await here.use(guild, boss, "config filter threshold", category="violence", score=0.5)
    await here.use(guild, boss, "persona lock", channel=category)
    exported = await here.use(guild, boss, "config export")
    file = exported.messages()[0].attachments[0]
    opened = await here.use(place, boss, "config panel")
    [panel] = opened.messages()
    await picture(place, boss, "settings-conversations")
    for page in ("where", "replies", "limits", "together", "safety", "memory"):
        await turn_to(here, panel, boss, page)
        await picture(place, boss, f"settings-{page}")
    await here.discord.click(panel, boss, label="Switch on")
    await here.discord.until(lambda: "Saved" in str(panel.components))
    await picture(place, boss, "settings-memory")
    await turn_to(here, panel, boss, "talk")
    form = await here.discord.press(panel, boss, custom_id=component(panel, "open", "idle_time"))
    await here.discord.done(form)
    await form_picture(form, "settings-form")
    menu = component(panel, "set", "scope")
    await here.use(guild, boss, "config set", scope="channel")
    await here.discord.select(panel, boss, "thread", custom_id=menu)
    await here.discord.until(lambda: "changed meanwhile" in str(panel.components))
    await picture(place, boss, "settings-changed")
    shown = here.discord.channel(guild, "show")
    await here.discord.announce(shown)
    await here.use(shown, boss, "config show")
    await picture(shown, boss, "config-show")
    await here.use(guild, boss, "config reset", setting="everything")
    elsewhere = here.discord.channel(guild, "import")
    await here.discord.announce(elsewhere)
    text = file.content.decode().replace(str(bots.id), "123456789012345678")
    changed = Attachment("settings.json", text.encode())
    [question] = (await here.use(elsewhere, boss, "config import", file=changed)).messages()
    await picture(elsewhere, boss, "settings-import")
    await here.discord.press(question, boss, "Apply")
    await here.discord.until(lambda: "Saved" in question.content)
    await here.use(elsewhere, boss, "config import", file=changed)
    await here.use(
        elsewhere, boss, "config import", file=Attachment("settings.json", text.replace("scope", "scop").encode())
    )
    await here.use(elsewhere, boss, "config export")
    await picture(elsewhere, boss, "settings-imported")
    own = here.discord.channel(guild, "me")
    await here.discord.announce(own)
    await here.use(own, ann, "me settings", retention_days=7, private=True)
    await picture(own, ann, "settings-own")


async def filters(here: World) -> None:
    """Words and scores that keep out messages and answers, as their admins read them."""
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "config filter words", action="add", words="gosh*, darn, very silly, ***")
    await here.use(guild, boss, "config filter words", action="remove", words="darn")
    await here.use(guild, boss, "config filter words", action="show")
    await here.use(guild, boss, "config filter threshold", category="violence", score=0.5)
    await here.use(guild, boss, "config filter moderation", enabled=True)
    await picture(guild.channel, boss, "filters")


async def turn_to(here: World, panel: Message, user: User, page: str) -> None:
    """Choose a page of a panel."""
    await here.discord.select(panel, user, page, custom_id=component(panel, "page", ""))
    await here.discord.until(lambda: f":{PAGE_SIGNS[page]}:" in str(panel.components))


def component(panel: Message, what: str, setting: str) -> str:
    """The custom id of the component that does this to this setting."""
    ids = [str(each.get("custom_id", "")) for each in panel.all_components()]
    return next(each for each in ids if each.split(":")[1:4:2] == [what, setting])


PAGE_SIGNS = {
    "talk": "idle_time",
    "where": "persona_locks",
    "replies": "streaming",
    "limits": "daily_tokens",
    "together": "guild_daily_tokens",
    "safety": "filter_words",
    "memory": "memory",
}
"""A setting of each page."""
