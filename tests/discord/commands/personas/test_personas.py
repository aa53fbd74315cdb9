"""The library of personas and who answers where: every command, on both databases; what everyone reads of it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from models.engines import sync_engine
from models.urls import sync_url
from tests.discord.harness import World
from tests.fakes.discord.server import Attachment, Channel, Guild, Interaction, User

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"


async def asked_by(here: World, where: Guild | Channel, user: User, words: str = "Who are you?") -> str:
    """The system prompt of an answer."""
    await here.ask(where, user, words)
    return str(here.engine.requests[-1].messages[0]["content"])


async def announced(here: World, used: Interaction) -> str:
    """The line that everyone in the channel reads after a change."""
    await here.discord.until(lambda: any(not message.ephemeral for message in used.messages()))
    [line] = [message for message in used.messages() if not message.ephemeral]
    assert not line.content.count("\n")
    return str(line.content)


async def written(here: World, where: Guild | User, user: User, command: str, /, **fields: str) -> Interaction:
    """Fill in the form that a command opens."""
    opened = await here.use(where, user, command)
    sent = await here.discord.submit(opened, **fields)
    await here.discord.done(sent)
    return sent


async def test_a_library_from_creation_to_deletion(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    assert "keeps no personas" in (await here.use(guild, ann, "persona list")).reply()
    made = await written(
        here, guild, boss, "persona create", prompt="You are a pirate.", name="Jack", tags="#sea, fun, Sea"
    )
    assert "**Jack** is stored" in made.reply()
    assert "tokens" in made.reply()
    assert "% of the" in made.reply()
    assert "pirate" not in await asked_by(here, guild, ann)
    used = await here.use(guild, boss, "persona set", name="jack")
    assert "From the next message on I am **Jack** in this guild. Our conversations go on" in used.reply()
    assert await announced(here, used) == ("-# From now on **Jack** answers in this guild. Our conversations go on.")
    assert await asked_by(here, guild, ann) == "You are a pirate."
    listed = (await here.use(guild, ann, "persona list")).reply()
    assert "- **Jack** `#sea` `#fun` – answers in this guild" in listed
    assert "Jack" in (await here.use(guild, ann, "persona list", tag="SEA")).reply()
    assert "No persona here" in (await here.use(guild, ann, "persona list", tag="land")).reply()

    opened = await here.use(guild, boss, "persona edit", name="Jack")
    assert "You are a pirate." in str(opened.modal)
    edited = await here.discord.submit(opened, prompt="You are an old pirate.", name="Jack the Old", tags="sea")
    await here.discord.done(edited)
    assert "**Jack the Old** is stored, version 2" in edited.reply()
    assert "who answers here, was changed" in await announced(here, edited)
    assert await asked_by(here, guild, ann) == "You are an old pirate."
    assert (
        "has the tags **old**" in (await here.use(guild, boss, "persona tags", name="jack the old", tags="old")).reply()
    )

    versions = (await here.use(guild, boss, "persona versions", name="Jack the Old")).reply()
    assert "You are a pirate." in versions
    assert (
        "version 1 again" in (await here.use(guild, boss, "persona rollback", name="Jack the Old", version=1)).reply()
    )
    assert await asked_by(here, guild, ann) == "You are a pirate."

    asked = await here.use(guild, boss, "persona delete", name="Jack the Old")
    assert "answers in this guild" in asked.reply()
    pressed = await here.discord.press(asked.messages()[0], boss, label="Delete it")
    await here.discord.until(lambda: "It is deleted." in asked.reply())
    await here.discord.until(lambda: any("is gone" in message.content for message in pressed.messages()))
    assert "pirate" not in await asked_by(here, guild, ann)
    assert "There is no persona" in (await here.use(guild, boss, "persona delete", name="Jack the Old")).reply()


async def test_from_the_guild_to_the_thread_and_who_is_shown(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    category = here.discord.category(guild, "Games")
    games = here.discord.channel(guild, "chess", category=category)
    for channel in (category, games):
        await here.discord.announce(channel)
    thread = here.discord.channel(guild, "an opening", parent=games)
    await here.discord.announce(thread)
    assert "that of this bot's owner · **answers you**" in (await here.use(guild, ann, "persona show")).reply()
    for where, name in (("guild", "Guild"), ("category", "Category"), ("channel", "Channel"), ("thread", "Thread")):
        used = await here.use(thread, boss, "persona set", prompt=f"You are {name}.", name=name, where=where)
        assert f"I am **{name}**" in used.reply()
        assert f"**{name}** answers" in await announced(here, used)
        assert await asked_by(here, thread, ann) == f"You are {name}."
    wider = await here.use(thread, boss, "persona set", name="Guild")
    assert "Here **Thread** goes on answering: it is set for this thread." in wider.reply()
    assert await asked_by(here, games, ann) == "You are Channel."
    assert await asked_by(here, guild, ann) == "You are Guild."
    await here.use(thread, ann, "me persona set", prompt="You are mine.", name="Mine")
    assert await asked_by(here, thread, ann) == "You are mine."
    shown = (await here.use(thread, ann, "persona show")).reply()
    assert shown.startswith("**Mine** answers you here: you chose it for yourself.")
    assert "- your own – **Mine** · **answers you**\n- this thread – **Thread**\n" in shown
    assert "- this channel – **Channel**\n- this category – **Category**\n- this guild – **Guild**" in shown
    assert "You are mine." in shown
    twice = await here.use(guild, boss, "persona set", name="Thread", prompt="You are Thread.", where="channel")
    assert f"It also answers in the thread <#{thread.id}>." in twice.reply()
    await here.use(guild, boss, "persona clear", where="channel")
    listed = (await here.use(guild, ann, "persona list")).reply()
    assert f"in the category <#{category.id}>" in listed
    assert f"in the thread <#{thread.id}>" in listed
    cleared = await here.use(thread, boss, "persona clear", where="thread")
    assert f"<#{thread.id}>" in cleared.reply()
    await here.use(thread, ann, "me persona clear")
    assert await asked_by(here, thread, ann) == "You are Channel."
    assert "No persona is set" in (await here.use(thread, boss, "persona clear", where="thread")).reply()
    assert "in no category" in (await here.use(guild, boss, "persona set", name="Guild", where="category")).reply()
    assert "no thread" in (await here.use(guild, boss, "persona set", name="Guild", where="thread")).reply()


async def test_own_personas_only_where_the_guild_allows_them(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    knights = here.discord.role(guild, "knights", bob)
    await here.discord.announce(knights, guild)
    await here.use(guild, boss, "persona set", prompt="You are the guild's.", name="Official")
    for user in (ann, bob):
        await here.use(guild, user, "me persona set", prompt=f"You are {user.name}'s.")
        assert await asked_by(here, guild, user, "One") == f"You are {user.name}'s."
    # Each dialog has begun: the rule holds from its next message on, and for managers, too.
    assert "Please name a role" in (await here.use(guild, boss, "persona allow", who="roles")).reply()
    allowed = await here.use(guild, boss, "persona allow", who="roles", role=knights)
    assert f"<@&{knights.id}>" in allowed.reply()
    assert await asked_by(here, guild, ann, "Two") == "You are the guild's."
    assert await asked_by(here, guild, bob, "Two") == "You are bob's."
    shown = (await here.use(guild, ann, "persona show")).reply()
    assert shown.startswith("**Official** answers you here: it is this guild's persona.")
    assert "not here: only members with certain roles may have their own in this guild" in shown
    assert "does not answer here" in (await here.use(guild, ann, "me persona show")).reply()
    assert "**roles**" not in (await here.use(guild, boss, "config show")).reply()
    assert f"personas of members' own: <@&{knights.id}>" in (await here.use(guild, boss, "config show")).reply()
    await here.use(guild, boss, "persona allow", who="nobody")
    assert await asked_by(here, guild, bob, "Three") == "You are the guild's."
    saved = await here.use(guild, ann, "me persona set", prompt="You are ann's again.")
    assert "does not answer here: this guild does not let members have their own" in saved.reply()
    await here.use(guild, boss, "persona allow", who="members")
    assert await asked_by(here, guild, ann, "Four") == "You are ann's again."

    locked = here.discord.channel(guild, "announcements")
    await here.discord.announce(locked)
    assert f"Locked: <#{locked.id}>" in (await here.use(guild, boss, "persona lock", channel=locked)).reply()
    assert await asked_by(here, locked, ann) == "You are the guild's."
    assert "this place is locked" in (await here.use(locked, ann, "persona show")).reply()
    thread = here.discord.channel(guild, "a thread of it", parent=locked)
    await here.discord.announce(thread)
    assert await asked_by(here, thread, ann) == "You are the guild's."
    assert await asked_by(here, guild, ann) == "You are ann's again."
    assert f"no member's own persona: <#{locked.id}>" in (await here.use(guild, boss, "config show")).reply()
    assert "is not locked" in (await here.use(locked, boss, "persona unlock")).reply()
    assert await asked_by(here, thread, ann) == "You are ann's again."
    await here.use(guild, boss, "persona lock", channel=locked)
    await here.use(guild, boss, "persona allow", who="nobody")
    await here.use(guild, boss, "config reset", setting="persona_locks")
    reset = await here.use(guild, boss, "config reset", setting="own_personas")
    assert "persona" not in reset.reply()
    assert await asked_by(here, locked, ann) == "You are ann's again."


async def test_only_managers_change_and_everyone_reads(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, boss, "persona set", prompt="You are a pirate.", name="Jack")
    commands = {
        "set": {"name": "Jack"}, "create": {}, "edit": {"name": "Jack"}, "delete": {"name": "Jack"}, "clear": {},
        "versions": {}, "rollback": {"version": 1}, "tags": {"name": "Jack"}, "allow": {"who": "nobody"}, "lock": {},
        "unlock": {}, "import": {"file": Attachment("a.json", b"{}")}, "export": {"name": "Jack"},
        "face": {"how": "name"}, "picture": {"name": "Jack"}, "greeting": {"name": "Jack"},
        "rating": {"name": "Jack", "age_restricted": True},
    }  # fmt: skip
    group = next(each for each in here.discord.rest.commands if each["name"] == "persona")
    assert {each["name"] for each in group["options"]} == {*commands, "show", "list"}
    for name, options in commands.items():
        refused = await here.use(guild, ann, f"persona {name}", **options)
        assert "Manage Server" in refused.reply(), name
        assert refused.messages()[0].ephemeral
    assert await here.discord.autocomplete(guild, ann, "persona edit", option="name", typed="") == []
    asked = await here.use(guild, boss, "persona delete", name="Jack")
    opened = await here.use(guild, boss, "persona edit", name="Jack")
    guild.managers.clear()
    clicked = await here.discord.press(asked.messages()[0], boss, label="Delete it")
    await here.discord.done(clicked)
    sent = await here.discord.submit(opened, prompt="You are evil.", name="Jack", tags="")
    await here.discord.done(sent)
    assert "Manage Server" in sent.reply()
    assert await asked_by(here, guild, ann) == "You are a pirate."
    assert "**Jack**" in (await here.use(guild, ann, "persona list")).reply()
    assert "**Jack**" in (await here.use(guild, ann, "persona show")).reply()


async def test_attack_two_admins_edit_at_once(here: World) -> None:
    """Neither undoes what the other one changed, only what they wrote themselves; and what is replaced is named."""
    guild, boss = await here.member("boss", manager=True)
    eve = here.discord.user("eve")
    guild.managers.add(eve.id)
    await here.use(guild, boss, "persona set", prompt="You are a pirate.", name="Jack")

    async def submit(opened: Interaction, **fields: str) -> str:
        sent = await here.discord.submit(opened, **fields)
        await here.discord.done(sent)
        return sent.reply()

    first = await here.use(guild, boss, "persona edit", name="Jack")
    second = await here.use(guild, eve, "persona edit", name="Jack")
    third = await here.use(guild, eve, "persona edit", name="Jack")
    assert "version 2" in await submit(first, prompt="You are a captain.", name="Captain", tags="sea")
    assert "**Captain** is stored." in await submit(second, prompt="You are a pirate.", name="Jack", tags="old")
    assert await asked_by(here, guild, eve) == "You are a captain."
    assert "Captain" in (await here.use(guild, eve, "persona list", tag="old")).reply()
    replaced = await submit(third, prompt="You are a cook.", name="Jack", tags="")
    assert "version 3" in replaced
    assert "while you wrote, it got version 2" in replaced
    assert await asked_by(here, guild, eve) == "You are a cook."


async def test_names_and_ids_of_other_guilds_and_members_find_nothing(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    other, _ = await here.member("other", manager=True)
    other.managers.add(boss.id)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    await here.use(other, boss, "persona set", prompt="You are a secret.", name="Secret")
    await here.use(guild, bob, "me persona set", prompt="You are bob's secret.", name="Bob's")
    for command in ("edit", "delete", "versions"):
        assert (
            "There is no persona “Secret”" in (await here.use(guild, boss, f"persona {command}", name="Secret")).reply()
        )
        assert (
            "There is no persona “Bob's”" in (await here.use(guild, ann, f"me persona {command}", name="Bob's")).reply()
        )
    for user, command in ((boss, "persona set"), (ann, "me persona set")):
        assert await here.discord.autocomplete(guild, user, command, option="name", typed="") == []
        opened = await here.use(guild, user, command, name="Secret")
        assert opened.modal is not None  # a name that nobody knows: the form for a new one
        assert "secret." not in str(opened.modal)
    # A forged button of the other guild's persona.
    asked = await here.use(other, boss, "persona delete", name="Secret")
    asked.messages()[0].channel = guild.channel
    await here.use(guild, boss, "persona set", prompt="You are here.", name="Here")
    mine = await here.use(guild, boss, "persona delete", name="Here")
    foreign = asked.messages()[0].buttons()[0]["custom_id"]
    mine.messages()[0].buttons()[0]["custom_id"] = foreign
    await here.discord.press(mine.messages()[0], boss, label="Delete it")
    await here.discord.until(lambda: "deleted already" in mine.reply())
    assert await asked_by(here, other, boss) == "You are a secret."


async def test_own_personas_in_direct_messages(both: World) -> None:
    here = both
    _, ann = await here.member()
    made = await written(here, ann, ann, "me persona create", prompt="You are a nun.", name="Agnes", tags="")
    assert "`/me persona set` lets it answer" in made.reply()
    used = await here.use(ann, ann, "me persona set", name="agnes", conversations="afresh")
    assert "I am **Agnes** for you here" in used.reply()
    assert [message.ephemeral for message in used.messages()] == [True]
    await here.ask(ann, ann, "Who are you?")
    assert here.engine.requests[-1].messages[0]["content"] == "You are a nun."
    assert "- **Agnes** – answers for you here" in (await here.use(ann, ann, "me persona list")).reply()
    suggested = await here.discord.autocomplete(ann, ann, "me persona set", option="name", typed="GNE")
    assert [each["value"] for each in suggested] == ["Agnes"]
    await here.use(ann, ann, "me persona clear")
    assert "no persona of your own" in (await here.use(ann, ann, "me persona show")).reply()
    assert "**Agnes**" in (await here.use(ann, ann, "me persona rollback", version=1)).reply()
    asked = await here.use(ann, ann, "me persona delete", name="Agnes")
    await here.discord.press(asked.messages()[0], ann, label="Delete it")
    await here.discord.until(lambda: "It is deleted." in asked.reply())


async def test_conversations_go_on_or_begin_afresh(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.ask(guild, ann, "Remember the fish")
    await here.use(guild, boss, "persona set", prompt="You are a cook.", name="Cook")
    await here.ask(guild, ann, "Two")
    assert "fish" in str(here.engine.requests[-1].messages)
    used = await here.use(guild, boss, "persona set", name="Cook", conversations="afresh")
    assert "1 conversation has ended" in used.reply()
    assert (await announced(here, used)).endswith("We begin new conversations.")
    await here.ask(guild, ann, "Three")
    assert "fish" not in str(here.engine.requests[-1].messages)
    # A conversation in the whole guild belongs to no channel of it.
    used = await here.use(guild, boss, "persona set", name="Cook", where="channel", conversations="afresh")
    assert "belongs to this place alone. Those that members have with me in the whole guild go on" in used.reply()
    assert (await announced(here, used)).endswith("Our conversations go on.")
    await here.use(guild, boss, "config channels scope", channel=guild.channel, scope="channel")
    await here.ask(guild, ann, "A word of the channel")
    used = await here.use(guild, boss, "persona set", name="Cook", where="channel", conversations="afresh")
    assert "1 conversation has ended" in used.reply()
    await here.ask(guild, ann, "And now?")
    assert "A word of the channel" not in str(here.engine.requests[-1].messages)


KEEP, AFRESH = "Keep the conversations", "Begin afresh"


def labels(used: Interaction) -> list[str]:
    return [each["label"] for each in used.messages()[0].buttons()]


async def test_who_sets_a_persona_is_asked_about_the_conversations(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")

    async def remembers(words: str) -> bool:
        await here.ask(guild, ann, words)
        return "fish" in str(here.engine.requests[-1].messages[:-1])

    used = await here.use(guild, boss, "persona set", prompt="You are a cook.", name="Cook")
    assert labels(used) == [], "there is nothing to go on with"
    await here.ask(guild, ann, "Remember the fish")
    used = await here.use(guild, boss, "persona set", name="Cook")
    plain = "From the next message on I am **Cook** in this guild. Our conversations go on; /reset starts a new one."
    assert used.reply().startswith(plain)
    question = "Shall the conversations in this guild go on, or begin afresh?"
    assert used.reply().endswith(f"\n\n{question} Without an answer within 10 minutes they go on.")
    assert labels(used) == [KEEP, AFRESH]
    assert (await announced(here, used)).endswith("Our conversations go on.")
    assert await remembers("Without an answer they go on")
    await here.discord.press(used.messages()[0], boss, label=KEEP)
    await here.discord.until(lambda: labels(used) == [])
    assert used.reply().startswith(plain)
    assert "Shall" not in used.reply()
    # A button that is too old, and a member who manages the guild no more.
    used = await here.use(guild, boss, "persona set", name="Cook")
    [afresh] = [each for each in used.messages()[0].buttons() if each["label"] == AFRESH]
    word, _, moment = str(afresh["custom_id"]).rpartition(":")
    afresh["custom_id"] = f"{word}:{int(moment) - 601_000_000}"
    await here.discord.press(used.messages()[0], boss, label=AFRESH)
    await here.discord.until(lambda: "Too much time has passed" in used.reply())
    opened = await here.use(guild, boss, "persona set")
    used = await here.discord.submit(opened, prompt="You are a better cook.", name="Cook")
    await here.discord.done(used)
    assert labels(used) == [KEEP, AFRESH]
    guild.managers.clear()
    refused = await here.discord.press(used.messages()[0], boss, label=AFRESH)
    await here.discord.done(refused)
    assert "Manage Server" in refused.reply()
    assert await remembers("No change")
    guild.managers.add(boss.id)
    pressed = await here.discord.press(used.messages()[0], boss, label=AFRESH)
    await here.discord.until(lambda: "1 conversation has ended" in used.reply())
    assert "Our conversations go on" not in used.reply()
    assert labels(used) == []
    assert await announced(here, pressed) == "-# We begin new conversations in this guild."
    assert not await remembers("And now?")
    kept = await here.use(guild, boss, "persona set", name="Cook", conversations="keep")
    assert labels(kept) == []


async def test_conversations_that_began_since_the_question_go_on(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    await here.ask(guild, ann, "Remember the fish")
    used = await here.use(guild, boss, "persona set", prompt="You are a cook.", name="Cook")
    await here.ask(guild, bob, "Remember the bird")
    await here.discord.press(used.messages()[0], boss, label=AFRESH)
    await here.discord.until(lambda: "1 conversation has ended" in used.reply())
    await here.ask(guild, bob, "And?")
    assert "bird" in str(here.engine.requests[-1].messages)
    # A place without conversations of its own asks nothing: those of the whole guild would go on anyway.
    used = await here.use(guild, boss, "persona set", name="Cook", where="channel")
    assert labels(used) == []


async def test_a_member_is_asked_about_their_own_conversation(both: World) -> None:
    guild, ann = await both.member()
    for place in (guild, ann):
        await sets_their_own_and_begins_afresh(both, place, ann)


async def sets_their_own_and_begins_afresh(here: World, place: Guild | User, ann: User) -> None:
    await here.ask(place, ann, "Remember the fish")
    used = await here.use(place, ann, "me persona set", prompt="You are a nun.", name="Agnes")
    assert "Shall our conversation here go on, or begin afresh?" in used.reply()
    assert labels(used) == ["Keep the conversation", AFRESH]
    await here.discord.press(used.messages()[0], ann, label=AFRESH)
    await here.discord.until(lambda: "We begin a new conversation" in used.reply())
    assert "Our conversations go on" not in used.reply()
    await here.ask(place, ann, "And now?")
    assert "fish" not in str(here.engine.requests[-1].messages)
    assert "goes on" in (await here.use(place, ann, "history undo")).reply()
    await here.ask(place, ann, "And then?")
    assert "fish" in str(here.engine.requests[-1].messages)


async def test_odd_names_are_shown_as_typed_and_ping_nobody(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    family = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}" * 16
    names = ["@everyone", f"<@{boss.id}>", family, "**bold**\u202e", "\N{ZERO WIDTH SPACE}a\N{ZERO WIDTH SPACE}"]
    for name in names:
        used = await here.use(guild, boss, "persona set", prompt="You are odd.", name=name[:80])
        line = await announced(here, used)
        assert "\u202e" not in line
        assert not any(each.mentions or each.mention_everyone for each in used.messages())
    listed = (await here.use(guild, boss, "persona list")).reply()
    assert "@\u200beveryone" in listed
    assert "\\*\\*bold\\*\\*" in listed
    assert (
        "name is empty"
        in (await written(here, guild, boss, "persona create", prompt="x", name="\u200b", tags="")).reply()
    )
    assert (
        "There is a persona"
        in (await written(here, guild, boss, "persona create", prompt="x", name="A", tags="")).reply()
    )


async def test_a_long_list_has_pages(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    for number in range(12):
        await here.use(guild, boss, "persona set", prompt=f"You are {number}.", name=f"Number {number:02}")
    shown = await here.use(guild, ann, "persona list")
    assert "Number 09" in shown.reply()
    assert "Number 10" not in shown.reply()
    await here.discord.press(shown.messages()[0], ann, label="▶")
    await here.discord.until(lambda: "Number 11" in shown.reply())
    assert "Number 09" not in shown.reply()
    await here.discord.press(shown.messages()[0], ann, label="◀")
    await here.discord.until(lambda: "Number 00" in shown.reply())
    suggested = await here.discord.autocomplete(guild, boss, "persona set", option="name", typed="r 1")
    assert [each["value"] for each in suggested] == ["Number 10", "Number 11"]


async def test_nothing_is_said_where_the_bot_may_not_write(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    guild.channel.bot_may_send = False
    used = await here.use(guild, boss, "persona set", prompt="You are a mime.", name="Mime")
    assert "**Mime**" in used.reply()
    await here.use(guild, boss, "persona show")
    assert [message.ephemeral for message in used.messages()] == [True]


async def test_suggestions_and_forms_do_not_wait_for_a_slow_database(both: World) -> None:
    if both.database_url.startswith("sqlite"):
        pytest.skip("who reads from SQLite waits for nobody")
    guild, boss = await both.member("boss", manager=True)
    await both.use(guild, boss, "persona set", prompt="You are a pirate.", name="Jack")
    engine = sync_engine(sync_url(both.database_url))
    with engine.begin() as locking:
        locking.execute(text("LOCK TABLE personas IN ACCESS EXCLUSIVE MODE"))
        assert await both.discord.autocomplete(guild, boss, "persona set", option="name", typed="") == []
        opened = await both.use(guild, boss, "persona set", name="Jack")
        assert opened.modal is not None
    engine.dispose()
    suggested = await both.discord.autocomplete(guild, boss, "persona set", option="name", typed="")
    assert [each["value"] for each in suggested] == ["Jack"]
