"""A guild that speaks Korean."""

from __future__ import annotations

from tests.discord.harness import World
from tests.screens.pictures import picture
from tests.screens.settings import component, turn_to


async def korean(here: World) -> None:
    """A guild that speaks Korean: a question, another one that was refused, who answers there, the panel."""
    minji, jun = here.discord.user("민지"), here.discord.user("준")
    minji.locale = jun.locale = "ko"
    guild = here.discord.guild("한국 서버", managers=(minji,))
    guild.locale = "ko"
    await here.discord.join(guild)
    await here.use(guild, minji, "persona set", prompt="너는 달에 사는 토끼야.", name="달토끼")
    here.engine.reply("안녕하세요! 저는 달에서 떡방아를 찧는 토끼예요. 오늘은 보름달이라 조금 바쁘답니다.")
    asked = await here.ask(guild, minji, "안녕, 너는 누구야?")
    await here.discord.press(asked.messages()[0], jun, label="잊기")
    await here.use(guild, minji, "persona show")
    await here.use(guild, minji, "config show")
    await picture(guild.channel, minji, "korean")
    place = here.discord.channel(guild, "설정")
    await here.discord.announce(place)
    [panel] = (await here.use(place, minji, "config panel")).messages()
    await here.discord.select(panel, minji, "thread", custom_id=component(panel, "set", "scope"))
    await here.discord.until(lambda: "✅" in str(panel.components))
    await picture(place, minji, "korean-settings")
    await turn_to(here, panel, minji, "memory")
    await here.discord.press(panel, minji, custom_id=component(panel, "on", "memory"))
    await here.discord.until(lambda: "✅" in str(panel.components))
    await picture(place, minji, "korean-memory")
