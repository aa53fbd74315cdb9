"""The figures of a guild in words, and what its picture shows. Pure functions."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta

import discord

from bot.charts.usage_chart import Panel
from bot.i18n.language import gettext as _
from bot.i18n.language import ngettext
from models.types import AnswerTiming, DayFigures, GuildFigures

_TOP = 5
_MIN_TOKENS = 5
"""An answer of fewer tokens says nothing about the speed."""


def all_days(figures: GuildFigures, today: date, days: int) -> tuple[DayFigures, ...]:
    """Every day up to today, also those without use."""
    by_day = {each.day: each for each in figures.days}
    wanted = [today - timedelta(days=back) for back in reversed(range(days))]
    return tuple(by_day.get(each, DayFigures(each, 0, 0, 0)) for each in wanted)


def panels(by_day: Sequence[DayFigures]) -> tuple[Panel, ...]:
    """The rows of the picture."""
    return (
        Panel(_("Messages a day"), "Messages a day", tuple(each.messages for each in by_day)),
        Panel(_("Active members a day"), "Active members a day", tuple(each.members for each in by_day)),
        Panel(_("Tokens a day"), "Tokens a day", tuple(each.tokens for each in by_day)),
    )


def stats_text(figures: GuildFigures, by_day: Sequence[DayFigures]) -> str:
    """All numbers."""
    days = ngettext("Today", "The last {days} days", len(by_day)).format(days=len(by_day))
    lines = [f"### {days}", *_use_lines(figures, by_day), *_timing_lines(figures.answers), *_top_lines(figures)]
    if figures.answers:
        looked_at = ngettext(
            "Times and characters are those of the last answer.",
            "Times and characters are those of the last {number} answers.",
            len(figures.answers),
        )
        lines.append("-# " + looked_at.format(number=f"{len(figures.answers):,}"))
    lines.append("-# " + _("Days are counted in UTC. What members who opted out wrote is not counted."))
    return "\n".join(lines)


def alt_text(by_day: Sequence[DayFigures]) -> str:
    """What the picture shows, for those who do not see it."""
    busiest = max(by_day, key=lambda each: each.messages)
    return _(
        "Three rows of bars for the days from {first} to {last}: messages, active members and tokens. Most messages, "
        "{most}, were on {busiest}."
    ).format(first=by_day[0].day, last=by_day[-1].day, most=f"{busiest.messages:,}", busiest=busiest.day)


def _use_lines(figures: GuildFigures, by_day: Sequence[DayFigures]) -> list[str]:
    num_messages, tokens = sum(each.messages for each in by_day), sum(each.tokens for each in by_day)
    a_day = f"{num_messages / len(by_day):,.1f}"
    messages = ngettext("{number} message, {average} a day", "{number} messages, {average} a day", num_messages)
    members = ngettext("{number} active member", "{number} active members", figures.members)
    used = ngettext("{number} token", "{number} tokens", tokens)
    return [
        "- " + messages.format(number=f"{num_messages:,}", average=a_day),
        "- " + members.format(number=f"{figures.members:,}"),
        "- " + used.format(number=f"{tokens:,}"),
    ]


def _timing_lines(answers: Sequence[AnswerTiming]) -> list[str]:
    first = [each.first_token_ms / 1000 for each in answers if each.first_token_ms is not None]
    speeds = [speed for each in answers if (speed := _tokens_per_second(each)) is not None]
    lines = []
    if first:
        text = _("First token after {half} s for half of the answers, {most} s for 95 %")
        lines.append("- " + text.format(half=f"{_quantile(first, 50):.2f}", most=f"{_quantile(first, 95):.2f}"))
    if speeds:
        # 95 % of the answers are at least as fast as the slowest twentieth.
        text = _("Half of the answers have {half} tokens a second or more, 95 % have {most} or more")
        lines.append("- " + text.format(half=f"{_quantile(speeds, 50):.1f}", most=f"{_quantile(speeds, 5):.1f}"))
    return lines


def _tokens_per_second(answer: AnswerTiming) -> float | None:
    if answer.first_token_ms is None or answer.total_ms is None or answer.completion_tokens is None:
        return None
    seconds = (answer.total_ms - answer.first_token_ms) / 1000
    return (answer.completion_tokens - 1) / seconds if answer.completion_tokens >= _MIN_TOKENS and seconds > 0 else None


def _quantile(values: Sequence[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _top_lines(figures: GuildFigures) -> list[str]:
    """Which personas answered most, those of members under one name."""
    counted: Counter[str] = Counter()
    for each in figures.answers:
        counted[_called(each.persona_id, figures)] += 1
    if set(counted) <= {_nobody()}:
        return []
    lines = ["**" + _("Top characters") + "**"]
    for name, number in counted.most_common(_TOP):
        answers = ngettext("{number} answer", "{number} answers", number).format(number=f"{number:,}")
        lines.append(f"- {name}: {answers}")
    return lines


def _called(persona_id: int | None, figures: GuildFigures) -> str:
    if persona_id is None:
        return _nobody()
    if persona_id in figures.persona_names:
        return discord.utils.escape_mentions(discord.utils.escape_markdown(figures.persona_names[persona_id]))
    return _("members' own personas, or deleted ones")


def _nobody() -> str:
    return _("without a persona")
