"""Members are answered in the language of their client, channels in that of their guild; commands have both."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.discord.harness import World, world
from tests.fakes.discord.server import Guild, Message, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

KOREAN = "ko"


async def guild_of(here: World, locale: str, *managers: User) -> Guild:
    """A guild that gave Discord this locale."""
    guild = here.discord.guild(f"a guild in {locale}", managers=managers)
    guild.locale = locale
    await here.discord.join(guild)
    return guild


def user(here: World, name: str, locale: str = "en-US") -> User:
    made = here.discord.user(name)
    made.locale = locale
    return made


def labels(message: Message) -> list[str]:
    return [button.get("label") or button["emoji"]["name"] for button in message.buttons()]


class TestAMember:
    @pytest.mark.parametrize(
        ("command", "korean", "english"),
        [
            ("help", "봇과 대화합니다", "talk to me"),
            (
                "persona show",
                "여기서는 봇 소유자의 기본 페르소나가 답변합니다",
                "The persona of this bot's owner answers you",
            ),
            (
                "config show",
                "`max_chat_logs` **10**(기본값): 답변할 때 참고하는 문답 수",
                "`max_chat_logs` **10** (the default)",
            ),
            ("privacy show", "대화는 7일 동안 메시지가 없거나", "A conversation ends when it rests for 7 days"),
            ("history show", "아직 대화를 시작하지 않았습니다.", "Our conversation has not begun yet."),
            ("memory show", "이곳에는 회원님에 대한 메모가 없습니다.", "I have no notes about you here."),
            ("conversation list", "이곳에서 나눈 대화가 아직 없습니다.", "We have no conversation here yet."),
            ("scene list", "이곳에서 진행 중인 장면이 없습니다.", "No scene plays here"),
            (
                "reset",
                "새 대화를 시작합니다. 잊을 내용은 없었습니다.",
                "We start a new conversation.",
            ),
        ],
    )
    async def test_is_answered_in_the_language_of_their_client(
        self, here: World, command: str, korean: str, english: str
    ) -> None:
        minji, ann = user(here, "minji", KOREAN), user(here, "ann")
        guild = await guild_of(here, "en-US", minji, ann)
        assert korean in (await here.use(guild, minji, command)).reply()
        assert english in (await here.use(guild, ann, command)).reply()

    async def test_reads_errors_in_it_also_those_of_public_commands(self, here: World) -> None:
        minji, ann = user(here, "minji", KOREAN), user(here, "ann")
        guild = await guild_of(here, KOREAN)
        for asker, said in (
            (minji, "메시지가 비어 있습니다. 내용을 입력해 주세요. (오류 "),
            (ann, "This message is empty."),
        ):
            [message] = (await here.ask(guild, asker, "   ")).messages()
            assert message.ephemeral, message.content
            assert message.content.startswith(said)

    async def test_meets_korean_buttons_and_forms(self, here: World) -> None:
        minji = user(here, "minji", KOREAN)
        guild = await guild_of(here, "en-US")
        asked = await here.use(guild, minji, "privacy delete")
        assert labels(asked.messages()[0]) == ["모두 삭제"]
        await here.discord.press(asked.messages()[0], minji, label="모두 삭제")
        await here.discord.until(lambda: asked.reply() == "회원님에 대해 저장된 내용이 없습니다.")
        form = await here.discord.command(guild, minji, "me persona create")
        await here.discord.until(lambda: form.modal is not None)
        assert form.modal is not None
        assert form.modal["title"] == "나의 새 페르소나"
        assert [each["label"] for each in form.modal["components"]] == ["저는 누구인가요?", "이름", "태그"]
        stored = await here.discord.submit(form, prompt="달에 삽니다.", name="달", tags="")
        await here.discord.done(stored)
        assert stored.reply().startswith("**달**을 저장했습니다. `/me persona set`으로 답변하게 할 수 있습니다.")

    async def test_presses_a_button_under_the_answer_to_someone_else(self, here: World) -> None:
        minji, ann = user(here, "minji", KOREAN), user(here, "ann")
        guild = await guild_of(here, "en-US")
        [message] = (await here.ask(guild, ann, "Hi")).messages()
        assert labels(message)[0] == "Regenerate"
        pressed = await here.discord.press(message, minji, label="Forget")
        await here.discord.until(lambda: bool(pressed.followups))
        assert pressed.followups[0].content.startswith("질문한 사람만 할 수 있습니다. (오류 ")


class TestAGuild:
    async def test_reads_what_all_see_in_its_own_language(self, here: World) -> None:
        minji, ann = user(here, "minji", KOREAN), user(here, "ann")
        korean, english = await guild_of(here, KOREAN), await guild_of(here, "en-US")
        [message] = (await here.ask(korean, ann, "Hi")).messages()
        assert labels(message) == ["다시 생성", "수정", "잊기", "스레드"]
        await here.discord.press(message, ann, label="잊기")
        await here.discord.until(lambda: message.content == "-# 잊었습니다. 이 문답을 더는 떠올리지 않습니다.")
        [message] = (await here.ask(english, minji, "안녕")).messages()
        assert labels(message) == ["Regenerate", "Edit", "Forget", "Thread"]
        [private] = (await here.ask(english, minji, "안녕", private=True)).messages()
        assert labels(private)[0] == "다시 생성"

    async def test_reads_announcements_in_its_language(self, here: World) -> None:
        ann = user(here, "ann")
        guild = await guild_of(here, KOREAN, ann)
        done = await here.use(guild, ann, "persona set", prompt="You live on the moon.", name="달")
        await here.discord.until(lambda: len(done.messages()) == 2)
        told, announced = done.messages()
        assert told.content.startswith("From the next message on I am **달** in this guild.")
        assert announced.content == "-# 이제부터 이 서버에서 **달**이 답변합니다. 대화는 그대로 이어집니다."

    async def test_answers_mentions_in_its_language_errors_too(self, here: World) -> None:
        ann = user(here, "ann")
        guild = await guild_of(here, KOREAN)
        asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}>")
        [hint] = await here.discord.answered(asked)
        assert hint.content == "네? 제 이름 뒤에 하고 싶은 말을 쓰거나, 제 메시지에 답장해 주세요."
        here.engine.fail(400)
        asked = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> Hi")
        [failed] = await here.discord.answered(asked)
        assert failed.content.startswith("모델이 이 요청을 거부했습니다. 봇 소유자는 로그에서")

    async def test_a_choice_of_its_own_comes_before_what_it_gave_discord(self, here: World) -> None:
        ann = user(here, "ann")
        guild = await guild_of(here, "en-US", ann)
        await here.use(guild, ann, "config set", language=KOREAN)
        [message] = (await here.ask(guild, ann, "Hi")).messages()
        assert labels(message)[0] == "다시 생성"


async def test_direct_messages_are_in_the_language_that_was_used_last(here: World) -> None:
    minji = user(here, "minji", KOREAN)
    asked = await here.discord.say(minji, minji, "안녕?")
    [message] = await here.discord.answered(asked)
    assert labels(message)[0] == "Regenerate"
    await here.use(minji, minji, "history show")
    asked = await here.discord.say(minji, minji, "또 안녕?")
    [message] = await here.discord.answered(asked)
    assert labels(message)[0] == "다시 생성"


async def test_a_reply_that_was_lost_is_excused_in_the_language_of_its_guild(sqlite_url: str, tmp_path: Path) -> None:
    async with world(sqlite_url, tmp_path, CRASH_AT="after_begin_turn") as here:
        guild = await guild_of(here, KOREAN)
        asked = await here.discord.chat(guild, user(here, "ann"), "Are you there?")
        assert await here.bot.wait() == -9
        await here.start_bot(CRASH_AT="")
        await here.discord.until(
            lambda: asked.reply() == "이 답변을 쓰는 동안 봇이 다시 시작되었습니다. 다시 질문해 주세요."
        )


class TestCommands:
    async def test_are_described_in_korean_and_named_in_english(self, here: World) -> None:
        chat = here.discord.registered("chat")
        assert chat["description"] == "Talk to me. I remember what we said before."
        assert chat["description_localizations"] == {"ko": "봇과 대화합니다. 이전에 나눈 대화를 기억합니다."}
        assert not chat.get("name_localizations")
        [message] = [each for each in chat["options"] if each["name"] == "message"]
        assert message["description_localizations"] == {"ko": "하고 싶은 말"}
        menu = here.discord.registered("Ask about this", 3)
        assert menu["name_localizations"] == {"ko": "이 메시지에 대해 질문하기"}
        [scope] = here.discord.registered("reset")["options"]
        assert [each["name_localizations"] for each in scope["choices"]] == [{"ko": "이곳"}, {"ko": "모든 곳"}]

    async def test_are_registered_again_only_if_a_text_differs(self, sqlite_url: str, tmp_path: Path) -> None:
        async with world(sqlite_url, tmp_path) as here:

            def registrations() -> int:
                return sum(request.method == "PUT" for request in here.discord.rest.requests)

            assert registrations() == 1
            await here.bot.stop()
            await here.start_bot()
            assert registrations() == 1
            for translation in ({"ko": "다른 설명"}, {"ko": "나눈 대화", "de": "Anders"}):
                await here.bot.stop()
                here.discord.registered("chat")["description_localizations"] = translation
                await here.start_bot()
                await here.discord.until(
                    lambda: here.discord.registered("chat")["description_localizations"].keys() == {"ko"}
                )
            assert registrations() == 3
