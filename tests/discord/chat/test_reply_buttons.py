"""The buttons under a reply: what each does, to whom it answers, after a restart, and pressed at a bad time."""

from __future__ import annotations

import asyncio

import pytest

from tests.discord.harness import World
from tests.fakes.discord.server import Guild, Interaction, Message, User

FORGOTTEN = "-# Forgotten: I no longer think of this exchange."
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def asked(here: World, guild: Guild, ann: User, text: str = "Hi", *replies: str) -> Message:
    """A public /chat and the message that shows its reply."""
    if replies:
        here.engine.reply(*replies)
    interaction = await here.ask(guild, ann, text)
    [message] = interaction.messages()
    return message


async def press(here: World, message: Message, user: User, label: str, shows: str) -> Interaction:
    """Press a button, and wait until the message shows this text, with its buttons."""
    pressed = await here.discord.press(message, user, label=label)
    await here.discord.until(lambda: message.content == shows and not message.runs())
    return pressed


def labels(message: Message) -> list[str]:
    return [button.get("label") or button["emoji"]["name"] for button in message.buttons()]


async def said(here: World, guild: Guild, user: User) -> list[str]:
    """The dialog as the model reads it, without the system prompt."""
    await here.ask(guild, user, "And?")
    return [message["content"] for message in here.engine.requests[-1].messages if message["role"] != "system"][:-1]


async def test_a_public_chat_quotes_the_question_above_the_reply_and_offers_buttons(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "What **is** @everyone?\nTell me", "Hello.")
    assert message.content.startswith("> What \\*\\*is\\*\\* @\u200beveryone?\n> Tell me\n")
    assert message.content.endswith("\nHello.")
    assert labels(message) == ["Regenerate", "Edit", "Forget", "Thread"]


async def test_regenerate_replaces_the_reply_in_its_message_and_arrows_switch(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    here.engine.reply("Second.")
    await press(here, message, ann, "Regenerate", "> Hi\nSecond.")
    assert "2/2" in labels(message)
    await here.discord.press(message, ann, emoji="\N{BLACK LEFT-POINTING TRIANGLE}\ufe0f")
    await here.discord.until(lambda: message.content == "> Hi\nFirst.")
    assert "1/2" in labels(message)
    assert await said(here, guild, ann) == ["Hi", "First."]


async def test_b33_what_is_shown_is_what_is_remembered(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    here.engine.reply("Second.")
    await press(here, message, ann, "Regenerate", "> Hi\nSecond.")
    assert await said(here, guild, ann) == ["Hi", "Second."]


async def test_a_failed_regeneration_shows_the_old_reply_again(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    here.engine.fail_in_stream("Half of the sec")
    pressed = await here.discord.press(message, ann, label="Regenerate")
    await here.discord.until(lambda: pressed.followups)
    await here.discord.until(lambda: message.content == "> Hi\nFirst." and "Regenerate" in labels(message))
    assert pressed.followups[0].ephemeral
    assert await said(here, guild, ann) == ["Hi", "First."]


async def test_edit_opens_the_members_text_and_replaces_all_that_followed(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "My name is An", "Hello An.")
    await asked(here, guild, ann, "More", "More.")
    opened = await here.discord.press(message, ann, label="Edit")
    await here.discord.done(opened)
    assert "My name is An" in str(opened.modal)
    assert "I forget the exchange after it" in str(opened.modal)
    here.engine.reply("Hello Ann.")
    await here.discord.submit(opened, text="My name is Ann")
    await here.discord.until(lambda: "Hello Ann." in message.content and not message.runs())
    assert message.content == "> My name is Ann\nHello Ann."
    assert await said(here, guild, ann) == ["My name is Ann", "Hello Ann."]


async def test_forget_takes_the_pair_out_of_the_dialog(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "A secret", "I see.")
    await press(here, message, ann, "Forget", FORGOTTEN)
    assert message.buttons() == []
    assert await said(here, guild, ann) == []


async def test_a_long_reply_can_be_had_as_a_file(here: World) -> None:
    guild, ann = await here.member()
    text = "\n\n".join(f"Paragraph {number} " + "word " * 60 for number in range(12))
    here.engine.reply(text)
    interaction = await here.ask(guild, ann, "Long")
    await here.discord.until(lambda: interaction.messages()[-1].buttons())
    last = interaction.messages()[-1]
    pressed = await here.discord.press(last, ann, label="As file")
    await here.discord.until(lambda: any(each.attachments for each in pressed.messages()))
    [sent] = [each for each in pressed.messages() if each.attachments]
    assert sent.attachments[0].content.decode().strip() == text.strip()
    assert sent.ephemeral


@pytest.mark.parametrize("label", ["Regenerate", "Edit", "Forget"])
async def test_others_are_refused_in_private_and_nothing_changes(here: World, label: str) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    requests = len(here.engine.requests)
    pressed = await here.discord.press(message, here.discord.user("bob"), label=label)
    await here.discord.until(lambda: pressed.followups or pressed.messages())
    assert "Only the person who asked" in [*pressed.texts(), *(each.content for each in pressed.followups)][0]
    assert message.content == "> Hi\nFirst."
    assert len(here.engine.requests) == requests


async def test_a_manager_may_press(here: World) -> None:
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    message = await asked(here, guild, ann, "Hi", "First.")
    await press(here, message, boss, "Forget", FORGOTTEN)


async def test_a_button_pressed_twenty_times_in_a_second_acts_once(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    requests = len(here.engine.requests)
    here.engine.hang("Second")
    presses = [await here.discord.press(message, ann, label="Regenerate") for _ in range(20)]
    await here.discord.until(lambda: sum(bool(each.followups) for each in presses) == 19)
    here.engine.release()
    await here.discord.until(lambda: not message.runs() and message.content.endswith("Second"))
    assert len(here.engine.requests) == requests + 1


async def test_b08_buttons_work_after_a_restart_and_say_when_the_turn_is_gone(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    old = await asked(here, guild, ann, "Soon forgotten", "Yes.")
    await press(here, old, ann, "Forget", FORGOTTEN)
    assert await here.bot.stop() == 0
    await here.start_bot()
    here.engine.reply("Second.")
    await press(here, message, ann, "Regenerate", "> Hi\nSecond.")
    forged = await here.discord.force_component(message, ann, "forget:999999999")
    await here.discord.until(lambda: forged.followups)
    assert "do not remember this exchange" in forged.followups[0].content


async def test_forged_presses_change_nothing(here: World) -> None:
    guild, ann = await here.member()
    other, eve = await here.member("eve", manager=True)
    message = await asked(here, guild, ann, "Hi", "First.")
    turn_id = next(each["custom_id"] for each in message.buttons()).partition(":")[2]
    others = await asked(here, other, eve, "Mine", "Yours.")
    for custom_id in (f"forget:{turn_id}", f"regenerate:{turn_id}", f"variant:{turn_id}:2", "regenerate:x", "edit:-1"):
        forged = await here.discord.force_component(others, eve, custom_id)
        await here.discord.until(lambda forged=forged: forged.followups or forged.messages())
    await asyncio.sleep(0.3)
    assert message.content == "> Hi\nFirst."
    assert await said(here, guild, ann) == ["Hi", "First."]


async def test_a_forged_stop_reaches_no_reply_of_another(here: World) -> None:
    guild, ann = await here.member()
    other, eve = await here.member("eve", manager=True)
    theirs = await asked(here, other, eve, "Mine", "Yours.")
    here.engine.hang("First")
    asking = await here.discord.chat(guild, ann, "Hi")
    await here.discord.until(lambda: bool(asking.messages()) and bool(asking.messages()[0].buttons()))
    [message] = asking.messages()
    question_id = message.buttons()[0]["custom_id"].rpartition(":")[2]
    for forger, where in ((eve, theirs), (here.discord.user("bob"), message)):
        for claimed in (ann, forger):
            forged = await here.discord.force_component(where, forger, f"stop:{claimed.id}:{question_id}")
            await here.discord.until(lambda forged=forged: forged.followups or forged.messages())
            told = [*forged.texts(), *(each.content for each in forged.followups)]
            assert any("Only the person who asked can stop" in text for text in told)
    assert message.runs()
    await here.discord.press(message, ann, label="Stop")
    await here.discord.until(lambda: not message.runs())
    assert message.content == "> Hi\nFirst"


async def test_a_button_is_followed_as_soon_as_it_is_seen(here: World) -> None:
    """The reply is on the screen a moment before its delivery is recorded."""
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "0.")
    for number in range(1, 9):
        here.engine.reply(f"{number}.")
        await press(here, message, ann, "Regenerate", f"> Hi\n{number}.")


async def test_reactions_of_the_asker_do_what_the_buttons_do(here: World) -> None:
    guild, ann = await here.member()
    message = await asked(here, guild, ann, "Hi", "First.")
    await here.discord.react(message, here.discord.user("bob"), "\N{CROSS MARK}")
    here.engine.reply("Second.")
    await here.discord.react(message, ann, "\N{CLOCKWISE RIGHTWARDS AND LEFTWARDS OPEN CIRCLE ARROWS}")
    await here.discord.until(lambda: message.content.endswith("Second.") and not message.runs())
    await here.discord.react(message, ann, "\N{CROSS MARK}")
    await here.discord.until(lambda: message.content.startswith("-# Forgotten"))
    assert await said(here, guild, ann) == []


async def test_continue_goes_on_with_a_reply_that_the_length_limit_cut(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply("One, two, ", finish_reason="length")
    message = (await here.ask(guild, ann, "Count")).messages()[0]
    assert labels(message) == ["Regenerate", "Continue", "Edit", "Forget", "Thread"]
    here.engine.reply("three.")
    await press(here, message, ann, "Continue", "> Count\nOne, two, three.")
    assert labels(message) == ["Regenerate", "Edit", "Forget", "Thread"]
    request = here.engine.requests[-1]
    assert request.messages[-1] == {"role": "assistant", "content": "One, two, "}
    assert (request.body["continue_final_message"], request.body["add_generation_prompt"]) == (True, False)
    assert await said(here, guild, ann) == ["Count", "One, two, three."]
