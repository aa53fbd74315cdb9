"""The line that says whom a webhook's message answers, whatever the asker is called."""

from __future__ import annotations

import pytest

from bot.discord_app.replies.quoting import address_line, question_link, without_address
from models.types import Place


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ann", "Ann"),
        ("Ann (she/her)", "Ann she/her"),
        ("*Ann*_", r"\*Ann\*\_"),
        ("[x](y)", "xy"),
        ("https://evil.example", "https:/evil.example"),
        ("hthttp://tp:/[/evil.example", "hthttp:/tp:/evil.example"),
        ("\u200b\u3164", "this message"),
        ("", "this message"),
    ],
)
def test_a_name_is_one_link_to_the_question(name: str, shown: str) -> None:
    place = Place(guild_id=1, channel_id=2, asker_id=3, nonce=4, question_id=5, asker_name=name)
    line = address_line(place)
    assert line.endswith(f"[{shown}]({question_link(place)})\n")
    assert without_address(f"{line}Hello") == "Hello"
