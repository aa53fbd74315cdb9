"""Discord's Markdown as HTML, for pictures of a channel: the subset that its clients show, everything escaped.

Knows text and HTML. Knows nothing of messages; what an id is called is passed in.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from babel.dates import format_timedelta

Namer = Callable[[str, int], str]  # ("@" or "#" or "@&", id) → a name
FENCE = re.compile(r"```(?:([a-zA-Z0-9_+\-.#]+)\n)?\n?([\s\S]*?)\n?```")
HEADING = re.compile(r"(#{1,3})\s+(.+)")
LIST_ITEM = re.compile(r"(\s*)([-*]|\d{1,9}\.)\s+(.+)")
INLINE = re.compile(
    r"\\(?P<escaped>[^A-Za-z0-9\s])"
    r"|(?P<ticks>`+)(?!`)(?P<code>[\s\S]*?[^`])(?P=ticks)(?!`)"
    r"|<(?P<kind>@&|@!?|\#)(?P<id>\d{1,20})>"
    r"|<a?:(?P<emoji>\w+):\d{1,20}>"
    r"|<t:(?P<time>-?\d{1,13})(?::(?P<style>\w))?>"
    r"|</(?P<command>[^:>\n]{1,100}):\d{1,20}>"
    r"|(?P<everyone>@everyone|@here)\b"
    r"|\[(?P<label>[^\[\]\n]+)\]\(<?(?P<target>https?://[^\s<>()]+(?:\([^\s<>()]*\))?)>?\)"
    r"|<(?P<bare>https?://[^\s<>]+)>"
    r"|(?P<url>https?://(?:\([^\s<>()]*\)|[^\s<>()])*(?:\([^\s<>()]*\)|[^\s<>().,;:!?\]'\"*_~|]))"
    r"|\|\|(?P<spoiler>[\s\S]+?)\|\|"
    r"|\*\*\*(?P<both>(?=\S)[\s\S]+?)\*\*\*"
    r"|\*\*(?P<bold>(?=\S)[\s\S]+?)\*\*(?!\*)"
    r"|__(?P<underlined>[\s\S]+?)__(?!_)"
    r"|~~(?P<struck>(?=\S)[\s\S]+?)~~"
    r"|\*(?P<star>(?=[^\s*])(?:[^*]|\*\*[^*]+\*\*)+?)(?<!\s)\*(?!\*)"
    r"|(?<![A-Za-z0-9])_(?P<line>(?=\S)[^_]+?)_(?![A-Za-z0-9])"
)
TAGS = {"spoiler": ('<span class="spoiler">', "</span>"), "both": ("<b><i>", "</i></b>"), "bold": ("<b>", "</b>"),
        "underlined": ("<u>", "</u>"), "struck": ("<s>", "</s>"), "star": ("<i>", "</i>"),
        "line": ("<i>", "</i>")}  # fmt: skip


def to_html(text: str, name: Namer) -> str:
    """The text of a message."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts.append(_blocks(text[end : fence.start()], name))
        language = html.escape(fence[1] or "")
        parts.append(f'<pre data-language="{language}"><code>{html.escape(fence[2])}</code></pre>')
        end = fence.end()
    parts.append(_blocks(text[end:], name))
    return "".join(parts)


def one_line(text: str, name: Namer) -> str:
    """The text as a quoted reply shows it: in one line, without blocks."""
    flat = " ".join(re.sub(r"^(?:#{1,3}|-#|>{1,3}|-)\s+", "", line) for line in text.split("\n")).replace("```", " ")
    return inline(flat[:300], name)


def inline(text: str, name: Namer) -> str:
    """Everything within a line."""
    parts, end = [], 0
    for found in INLINE.finditer(text):
        parts.append(html.escape(text[end : found.start()]))
        parts.append(_span(found, name))
        end = found.end()
    return "".join([*parts, html.escape(text[end:])])


def _span(found: re.Match[str], name: Namer) -> str:
    group = {key: value for key, value in found.groupdict().items() if value is not None}
    if "escaped" in group:
        return html.escape(group["escaped"])
    if "code" in group:
        return f"<code>{html.escape(group['code'].strip() or group['code'])}</code>"
    if "id" in group:
        kind = group["kind"].rstrip("!")
        return f'<span class="mention">{html.escape(name(kind, int(group["id"])))}</span>'
    if "everyone" in group:
        return f'<span class="mention">{group["everyone"]}</span>'
    if "command" in group:
        return f'<span class="mention">/{html.escape(group["command"])}</span>'
    if "emoji" in group:
        return f":{group['emoji']}:"
    if "time" in group:
        at = datetime.fromtimestamp(min(max(int(group["time"]), 0), 4_000_000_000), UTC)
        relative = format_timedelta(at - datetime.now(UTC), add_direction=True, locale="en")
        return f'<span class="timestamp">{relative if group.get("style") == "R" else f"{at:%d %B %Y %H:%M}"}</span>'
    if "label" in group:
        return f'<a title="{html.escape(group["target"])}">{inline(group["label"], name)}</a>'
    if url := group.get("bare") or group.get("url"):
        return f"<a>{html.escape(url)}</a>"
    kind = next(kind for kind in TAGS if kind in group)
    opening, closing = TAGS[kind]
    return f"{opening}{inline(group[kind], name)}{closing}"


def _blocks(text: str, name: Namer) -> str:
    """Text without fenced code: quotes, headings, lists, small print, lines."""
    lines = text.strip("\n").split("\n")
    parts: list[str] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            parts.append("<p>" + "<br>".join(inline(line, name) for line in plain) + "</p>")
            plain.clear()

    position = 0
    while position < len(lines):
        line = lines[position]
        if line.startswith(">>> "):
            flush()
            rest = "\n".join([line[4:], *lines[position + 1 :]])
            parts.append(f"<blockquote>{_blocks(rest, name)}</blockquote>")
            break
        if line.startswith("> "):
            quoted = list(_while_matching(lines[position:], lambda each: each.startswith("> ")))
            flush()
            inner = "\n".join(each[2:] for each in quoted)
            parts.append(f"<blockquote>{_blocks(inner, name)}</blockquote>")
            position += len(quoted)
            continue
        if LIST_ITEM.fullmatch(line):
            items = list(_while_matching(lines[position:], lambda each: bool(LIST_ITEM.fullmatch(each))))
            flush()
            parts.append(_list(items, name))
            position += len(items)
            continue
        if heading := HEADING.fullmatch(line):
            flush()
            level = len(heading[1])
            parts.append(f"<h{level}>{inline(heading[2], name)}</h{level}>")
        elif line.startswith("-# "):
            flush()
            parts.append(f"<small>{inline(line[3:], name)}</small>")
        else:
            plain.append(line)
        position += 1
    flush()
    return "".join(parts) if text.strip("\n") else ""


def _while_matching(lines: list[str], matches: Callable[[str], bool]) -> Iterator[str]:
    for line in lines:
        if not matches(line):
            return
        yield line


def _list(lines: list[str], name: Namer) -> str:
    rows = []
    for line in lines:
        found = LIST_ITEM.fullmatch(line)
        assert found
        depth = min(len(found[1]) // 2, 5)
        marker = "•" if depth == 0 else "◦"
        mark = found[2] if found[2][0].isdigit() else marker
        rows.append(f'<div class="item" style="margin-left:{depth * 20}px"><span class="mark">{mark}</span>'
                    f"<span>{inline(found[3], name)}</span></div>")  # fmt: skip
    return f'<div class="list">{"".join(rows)}</div>'
