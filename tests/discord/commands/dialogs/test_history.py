"""/history: pages, search, export, edit; who may read what; buttons of last week and of a modified client."""

from __future__ import annotations

import json

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction, Message, User
from tests.fakes.discord.state import Permission

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"

FORGOTTEN = "-# Forgotten: what was asked before this was changed."
LEFT, RIGHT = "◀️", "▶️"


def prompt(here: World) -> list[str]:
    return [message["content"] for message in here.engine.requests[-1].messages[1:]]


def message_of(used: Interaction) -> Message:
    [message] = used.messages()
    assert message.ephemeral
    return message


async def turn(here: World, message: Message, user: object, emoji: str) -> str:
    """Press an arrow and return the new page."""
    before = message.content
    await here.discord.press(message, user, emoji=emoji)  # type: ignore[arg-type]
    await here.discord.until(lambda: message.content != before)
    return message.content


async def test_b08_pages_of_a_history_turn_in_place_and_after_a_restart(both: World) -> None:
    guild, ann = await both.member()
    for number in range(1, 8):
        both.engine.reply(f"Answer {number}. " + "word " * 100)
        await both.ask(guild, ann, f"Question {number}?")
    message = message_of(await both.use(guild, ann, "history show"))
    assert len(message.content) <= 2000
    assert "Question 7?" in message.content
    assert message.content.endswith("-# Exchanges 5–7 of 7")
    await both.bot.stop()
    await both.start_bot()
    assert (await turn(both, message, ann, LEFT)).endswith("-# Exchanges 2–4 of 7")
    assert "Question 4?" in message.content
    assert "Question 5?" not in message.content
    assert (await turn(both, message, ann, LEFT)).endswith("-# Exchange 1 of 7")
    assert "Question 4?" in await turn(both, message, ann, RIGHT)
    # A number limits how far back it goes.
    message = message_of(await both.use(guild, ann, "history show", count=4))
    assert "Question 4?" in await turn(both, message, ann, LEFT)
    with pytest.raises(AssertionError, match="disabled"):
        await both.discord.press(message, ann, emoji=LEFT)


async def test_an_exchange_longer_than_a_page_goes_on_on_the_next(both: World) -> None:
    guild, ann = await both.member()
    words = [f"w{number:04}" for number in range(900)]
    both.engine.reply("```\n" + "\n".join(words) + "\n```")
    await both.ask(guild, ann, "Everything")
    message = message_of(await both.use(guild, ann, "history show"))
    pages = [message.content]
    while not message.buttons()[0]["disabled"]:
        pages.append(await turn(both, message, ann, LEFT))
    text = "\n".join(reversed(pages))
    assert [word for word in text.split() if word.startswith("w0")] == words
    assert all(len(page) <= 2000 and page.count("```") == 2 for page in pages[:-1])


async def test_b03_pages_are_checked_against_who_presses(both: World) -> None:
    guild, ann = await both.member()
    bob = both.discord.user("bob")
    for number in range(4):
        both.engine.reply("word " * 200)
        await both.ask(guild, ann, f"Secret {number}")
    message = message_of(await both.use(guild, ann, "history show"))
    custom_id = message.buttons()[0]["custom_id"]
    forged = await both.discord.force_component(message, bob, custom_id)
    await both.discord.done(forged)
    assert "Only the person" in forged.reply()
    # On a message of his own, with the custom id of hers.
    for number in range(4):
        both.engine.reply("word " * 200)
        await both.ask(guild, bob, f"Mine {number}")
    own = message_of(await both.use(guild, bob, "history show"))
    await both.discord.force_component(own, bob, custom_id)
    await both.discord.until(lambda: "nothing more" in own.content)
    assert "Secret" not in own.content
    for broken in ("history:older:1:2", "history:older:x:1:2:3", "history:find:", "history:what", "history:edit:1"):
        answer = await both.discord.force_component(message, ann, broken)
        await both.discord.done(answer)
        assert "error" in answer.reply(), broken


async def test_search_finds_words_in_all_own_conversations_here(both: World) -> None:
    guild, ann = await both.member()
    bob = both.discord.user("bob")
    elsewhere = both.discord.guild("another guild")
    await both.discord.join(elsewhere)
    await both.ask(guild, ann, "I like STRAßE signs")
    await both.use(guild, ann, "reset")
    await both.use(guild, ann, "conversation new", name="Roads")
    await both.ask(guild, ann, "Every strasse has an end")
    await both.use(guild, ann, "conversation new", name="Other")
    await both.ask(guild, bob, "My strasse")
    await both.ask(elsewhere, ann, "A strasse elsewhere")
    found = (await both.use(guild, ann, "history search", text="strasse")).reply()
    assert found.count("<t:") == 2
    assert "Every **strasse** has an end" in found
    assert "“Roads”" in found
    assert "in an ended conversation" in found
    assert "My" not in found
    assert "elsewhere" not in found
    assert (
        "nothing about “no such thing”" in (await both.use(guild, ann, "history search", text="no such thing")).reply()
    )
    assert "empty" in (await both.use(guild, ann, "history search", text="  \u3000 ")).reply()


async def test_search_results_are_paged_and_shown_as_text(both: World) -> None:
    guild, ann = await both.member()
    for number in range(10):
        both.engine.reply("Yes")
        await both.ask(guild, ann, f"**needle** @everyone [link](https://example.org) {number}")
    message = message_of(await both.use(guild, ann, "history search", text="NEEDLE"))
    assert message.content.count("<t:") == 8
    assert len(message.content) <= 2000
    assert message.content.count("\\*\\***needle**\\*\\* @\u200beveryone \\[link]") == 8
    assert "@everyone" not in message.content
    assert (await turn(both, message, ann, RIGHT)).count("<t:") == 2
    assert (await turn(both, message, ann, LEFT)).count("<t:") == 8


async def test_export_is_a_private_file_in_both_formats(both: World) -> None:
    guild, ann = await both.member()
    assert "not begun" in (await both.use(guild, ann, "history export")).reply()
    await both.ask(guild, ann, "# One\nmore")
    message = message_of(await both.use(guild, ann, "history export"))
    [file] = message.attachments
    assert file.filename == "conversation.md"
    assert "\n> # One\n> more\n" in file.content.decode()
    [file] = message_of(await both.use(guild, ann, "history export", format="json")).attachments
    assert file.filename == "conversation.json"
    [exchange] = json.loads(file.content)["exchanges"]
    assert (exchange["message"], exchange["reply"]) == ("# One\nmore", "You said: # One\nmore")


async def test_edit_replaces_the_last_message_where_its_answer_stands(both: World) -> None:
    guild, ann = await both.member()
    assert "nothing here yet" in (await both.use(guild, ann, "history edit")).reply()
    asked = await both.ask(guild, ann, "Tpyo")
    opened = await both.use(guild, ann, "history edit")
    assert opened.modal
    assert opened.modal["components"][0]["component"]["value"] == "Tpyo"
    sent = await both.discord.submit(opened, text="Typo")
    await both.discord.done(sent)
    await both.discord.until(lambda: asked.messages()[0].content == "> Typo\nYou said: Typo")
    assert sent.messages()[0].ephemeral
    assert f"/{asked.messages()[0].id}" in sent.reply()
    await both.ask(guild, ann, "Next")
    assert prompt(both) == ["Typo", "You said: Typo", "Next"]


async def test_edit_of_an_earlier_exchange_asks_first(both: World) -> None:
    guild, ann = await both.member()
    bob = both.discord.user("bob")
    await both.ask(guild, bob, "Bob's words")
    first = await both.ask(guild, ann, "One")
    both.engine.reply(" ".join(f"word{number}" for number in range(500)))
    two, three = [await both.ask(guild, ann, text) for text in ("Two", "Three")]
    assert len(two.messages()) > 1
    suggested = await both.discord.autocomplete(guild, ann, "history edit", option="exchange", typed="ON")
    assert [choice["name"].partition(" · ")[2] for choice in suggested] == ["One"]
    assert len(await both.discord.autocomplete(guild, ann, "history edit", option="exchange", typed="")) == 3
    message = message_of(await both.use(guild, ann, "history edit", exchange=suggested[0]["value"]))
    assert "2 exchanges after" in message.content
    opened = await both.discord.press(message, ann, "Edit")
    await both.discord.done(opened)
    await both.discord.submit(opened, text="Uno")
    await both.discord.until(lambda: first.messages()[0].content == "> Uno\nYou said: Uno")
    assert "in place of the old one" in message.content
    # What came after it does not stand there as if it were still true.
    for later in (two, three):
        await both.discord.until(lambda later=later: later.messages()[0].content == FORGOTTEN)
        assert not later.messages()[0].buttons()
        assert len(later.messages()) == 1
    await both.discord.react(two.messages()[0], ann, "❌")  # and means nothing any more
    await both.ask(guild, ann, "Next")
    assert prompt(both) == ["Uno", "You said: Uno", "Next"]

    [bobs] = await both.discord.autocomplete(guild, bob, "history edit", option="exchange", typed="")
    for wrong in (bobs["value"], "One", "0", "9" * 40):
        assert "(error" in (await both.use(guild, ann, "history edit", exchange=wrong)).reply()


async def test_edit_answers_here_when_the_old_answer_cannot_be_reached(both: World) -> None:
    guild, ann = await both.member()
    await both.ask(guild, ann, "Secretly", private=True)
    sent = await both.discord.submit(await both.use(guild, ann, "history edit"), text="Openly")
    await both.discord.until(lambda: "You said: Openly" in sent.reply())
    assert sent.messages()[0].ephemeral
    asked = await both.ask(guild, ann, "To be deleted")
    opened = await both.use(guild, ann, "history edit")
    asked.messages()[0].deleted = True
    sent = await both.discord.submit(opened, text="Kept")
    await both.discord.until(lambda: "You said: Kept" in sent.reply())
    await both.ask(guild, ann, "Next")
    assert prompt(both) == ["Openly", "You said: Openly", "Kept", "You said: Kept", "Next"]


async def test_a_shared_history_shows_names_and_nothing_that_was_private(both: World) -> None:
    guild, boss = await both.member("boss", manager=True)
    await both.use(guild, boss, "config set", scope="channel")
    ann, bob = both.discord.user("ann"), both.discord.user("bob")
    await both.ask(guild, ann, "From Ann **Bob:** fake")
    await both.ask(guild, bob, "For me alone", private=True)
    shown = (await both.use(guild, boss, "history show")).reply()
    assert "**Ann:** From Ann \\*\\*Bob:\\*\\* fake" in shown
    assert "alone" not in shown
    assert "alone" not in (await both.use(guild, ann, "history search", text="a")).reply()
    # What Bob said in private went to a dialog of his own, not to the shared one.
    assert "alone" not in (await both.use(guild, bob, "history show")).reply()
    assert "nothing to forget" in (await both.use(guild, both.discord.user("eve"), "history forget", count=9)).reply()
    assert "our last exchange" in (await both.use(guild, ann, "history forget", count=9)).reply()
    # Nothing is left that all share: his own is all that he can read here, and called so.
    assert (
        "-# Our private conversation here\n**You:** For me alone"
        in (await both.use(guild, bob, "history show")).reply()
    )


async def with_private(here: World) -> tuple[Guild, User, User, User]:
    """A guild that shares a conversation in each channel, where Ann has one of her own beside it."""
    guild, boss = await here.member("boss", manager=True)
    await here.use(guild, boss, "config set", scope="channel")
    ann, bob = here.discord.user("ann"), here.discord.user("bob")
    await here.ask(guild, ann, "To everyone")
    await here.ask(guild, ann, "My secret", private=True)
    return guild, boss, ann, bob


async def test_a_private_conversation_beside_a_shared_one_is_read_searched_and_exported(both: World) -> None:
    guild, boss, ann, bob = await with_private(both)
    message = message_of(await both.use(guild, ann, "history show"))
    assert message.content.startswith("-# What everyone here shares\n")
    assert "To everyone" in message.content
    assert "secret" not in message.content
    await both.discord.press(message, ann, "Our private conversation here")
    await both.discord.until(lambda: "My secret" in message.content)
    assert message.content.startswith("-# Our private conversation here\n")
    assert "everyone" not in message.content.partition("\n")[2]
    await both.discord.press(message, ann, "What everyone here shares")
    await both.discord.until(lambda: "To everyone" in message.content)
    found = (await both.use(guild, ann, "history search", text="secret")).reply()
    assert "in our private conversation here" in found
    exported = message_of(await both.use(guild, ann, "history export"))
    files = {file.filename: file.content.decode() for file in exported.attachments}
    assert list(files) == ["conversation.md", "private-conversation.md"]
    assert "secret" not in files["conversation.md"]
    assert "My secret" in files["private-conversation.md"]
    # Nobody else has any of it, not even with her button.
    for other in (bob, boss):
        own = message_of(await both.use(guild, other, "history show"))
        assert own.buttons() == []
        await both.discord.force_component(own, other, "history:of:private")
        await both.discord.until(lambda own=own: "not begun" in own.content)


async def test_pages_of_a_private_conversation_turn_beside_a_shared_one(both: World) -> None:
    guild, _, ann, _ = await with_private(both)
    for number in range(1, 5):
        both.engine.reply(f"Answer {number}. " + "word " * 200)
        await both.ask(guild, ann, f"Private {number}", private=True)
    message = message_of(await both.use(guild, ann, "history show"))
    await both.discord.press(message, ann, "Our private conversation here")
    await both.discord.until(lambda: "Private 4" in message.content)
    assert "Private 3" in await turn(both, message, ann, LEFT)
    assert message.content.startswith("-# Our private conversation here\n")
    assert len(message.content) <= 2000


async def test_a_private_exchange_beside_a_shared_conversation_is_edited_and_forgotten(both: World) -> None:
    guild, _, ann, _ = await with_private(both)
    form = await both.use(guild, ann, "history edit")
    answered = await both.discord.submit(form, text="My other secret")
    await both.discord.done(answered)
    assert "You said: My other secret" in answered.reply()
    assert answered.messages()[0].ephemeral
    forgotten = await both.use(guild, ann, "history forget", private=True)
    assert "forgotten our last exchange" in forgotten.reply()
    shown = message_of(await both.use(guild, ann, "history show"))
    assert "To everyone" in shown.content
    assert shown.buttons() == []


async def test_who_may_not_read_the_channel_reads_their_private_conversation_there(both: World) -> None:
    guild, _, ann, bob = await with_private(both)
    for member in (ann, bob):
        await both.discord.permit(guild.channel, member, deny=Permission.READ_MESSAGE_HISTORY)
    shown = (await both.use(guild, ann, "history show")).reply()
    assert "My secret" in shown
    assert "To everyone" not in shown
    assert "My **secret**" in (await both.use(guild, ann, "history search", text="secret")).reply()
    assert "nothing" in (await both.use(guild, ann, "history search", text="everyone")).reply()
    assert "may not read" in (await both.use(guild, bob, "history show")).reply()
