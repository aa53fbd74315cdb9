"""The pieces of a picture that are no text: avatars, attachments, embeds, buttons and menus, the fields of a modal.

Knows the JSON of components and HTML. Everything that comes from a message is escaped.
"""

from __future__ import annotations

import base64
from html import escape

from tests.fakes.discord.messages import Attachment
from tests.fakes.discord.pictures.markdown import Namer, to_html
from tests.fakes.discord.state import Json, User

COLOURS = ("#3f8f5c", "#c2683b", "#a5568f", "#3b82a8", "#9a8130", "#b04a55", "#4d6fc4")
BOT_COLOUR = "#7d5fe0"
EYE = (
    '<svg viewBox="0 0 24 24" fill="#949ba4"><path d="M12 5C6 5 2 12 2 12s4 7 10 7 10-7 10-7-4-7-10-7zm0 11'
    'a4 4 0 1 1 0-8 4 4 0 0 1 0 8z"/></svg>'
)
SHEET = (
    '<svg viewBox="0 0 30 40"><path d="M4 0h15l11 11v25a4 4 0 0 1-4 4H4a4 4 0 0 1-4-4V4a4 4 0 0 1 4-4z" '
    'fill="#d3d6fd"/><path d="M19 0l11 11H22a3 3 0 0 1-3-3z" fill="#939bf9"/>'
    '<path d="M7 18h16v2H7zm0 6h16v2H7zm0 6h10v2H7z" fill="#5865f2"/></svg>'
)


def avatar(user: User | None, kind: str = "avatar") -> str:
    """A disc with an initial; without a user, the application's."""
    colour = BOT_COLOUR if user is None or user.bot else COLOURS[sum(user.name.encode()) % len(COLOURS)]
    if user is not None and user.avatar_url:  # one of Discord's own pictures
        colour = COLOURS[int(user.avatar_url.rpartition("/")[2].removesuffix(".png")) % len(COLOURS)]
    if user is not None and user.picture and not user.avatar_url:
        data = base64.b64encode(user.picture).decode()
        return f'<span class="{kind}" style="background:url(data:image/png;base64,{data}) center/cover"></span>'
    initial = escape(user.display_name[:1] if user else "G")
    return f'<span class="{kind}" style="background:{colour}">{initial}</span>'


def _size(number: int) -> str:
    return (
        f"{number} bytes"
        if number < 1024
        else f"{number / 1024:.2f} KB"
        if number < 2**20
        else f"{number / 2**20:.2f} MB"
    )


def attachment_card(attachment: Attachment) -> str:
    about = attachment.json()
    if attachment.duration is not None:
        seconds = int(attachment.duration)
        length = f"{seconds // 60}:{seconds % 60:02}"
        return f'<div class="voice"><span class="play">▶</span><span class="wave"></span>{length}</div>'
    if (about["content_type"] or "").startswith("image/") and len(attachment.content) < 2**20:
        data = base64.b64encode(attachment.content).decode()
        return f'<img class="picture" src="data:{escape(about["content_type"])};base64,{data}">'
    name = escape(attachment.filename if "title" in about else about["filename"])
    return (f'<div class="card">{SHEET}<div><div class="file">{name}</div>'
            f'<div class="size">{_size(about["size"])}</div></div></div>')  # fmt: skip


def embed_card(embed: Json, name: Namer) -> str:
    colour = f"#{embed['color']:06x}" if embed.get("color") else "#4e5058"
    parts = []
    if embed.get("title"):
        parts.append(f'<div class="title">{to_html(embed["title"], name)}</div>')
    if embed.get("description"):
        parts.append(f'<div class="text">{to_html(embed["description"], name)}</div>')
    if fields := embed.get("fields"):
        cells = [f"<div><b>{to_html(each['name'], name)}</b>{to_html(each['value'], name)}</div>" for each in fields]
        parts.append(f'<div class="fields">{"".join(cells)}</div>')
    if embed.get("footer"):
        parts.append(f'<div class="footer">{escape(embed["footer"]["text"])}</div>')
    return f'<div class="embed" style="border-left-color:{colour}">{"".join(parts)}</div>'


def component(item: Json, name: Namer) -> str:
    inner = [component(each, name) for each in item.get("components", ())]
    match item["type"]:
        case 1:
            return f'<div class="row">{"".join(inner)}</div>'
        case 2:
            emoji = f"<span>{escape(item['emoji']['name'])}</span>" if item.get("emoji") else ""
            label = f"<span>{escape(item['label'])}</span>" if item.get("label") else ""
            arrow = "<span>↗</span>" if item["style"] == 5 else ""
            off = " disabled" if item.get("disabled") else ""
            return f'<span class="button style{item["style"]}{off}">{emoji}{label}{arrow}</span>'
        case 3 | 5 | 6 | 7 | 8:
            return _select(item, name)
        case 9:
            accessory = component(item["accessory"], name)
            return f'<div class="section"><div>{"".join(inner)}</div>{accessory}</div>'
        case 10:
            return f'<div class="text">{to_html(item["content"], name)}</div>'
        case 14:
            return "<hr>" if item.get("divider", True) else "<br>"
        case 17:
            colour = item.get("accent_color")
            accent = "" if colour is None else f' style="border-left-color:#{colour:06x}"'
            return f'<div class="container"{accent}>{"".join(inner)}</div>'
    return '<div class="card">…</div>'


MENTIONS = {"channel": "#", "role": "@&", "user": "@"}


def _select(item: Json, name: Namer = lambda kind, key: kind) -> str:
    chosen = [option["label"] for option in item.get("options") or () if option.get("default")]
    chosen += [name(MENTIONS[each["type"]], int(each["id"])) for each in item.get("default_values") or ()]
    text = ", ".join(chosen) or item.get("placeholder") or "Make a selection"
    kinds = f"{' chosen' if chosen else ''}{' disabled' if item.get('disabled') else ''}"
    return f'<div class="select{kinds}"><span>{escape(text)}</span><span>⌄</span></div>'


def modal_row(row: Json) -> str:
    if row["type"] == 10:
        return f'<div class="text">{to_html(row["content"], lambda kind, key: kind)}</div>'
    field: Json = row.get("component") or row["components"][0]
    star = "<em>*</em>" if field.get("required", True) and field["type"] != 23 else ""
    label = escape(row.get("label") or field.get("label") or "")
    hint = f'<div class="hint">{escape(row["description"])}</div>' if row.get("description") else ""
    return f"<label>{label}{star}</label>{hint}{_modal_field(field)}"


def _modal_field(field: Json) -> str:
    match field["type"]:
        case 4:
            value, kind = field.get("value") or "", " long" if field["style"] == 2 else ""
            shown = escape(value) or f'<span class="empty">{escape(field.get("placeholder") or "")}</span>'
            most = field.get("max_length")
            count = f'<div class="count">{len(value)}/{most}</div>' if most and field["style"] == 2 else ""
            return f'<div class="field{kind}">{shown}</div>{count}'
        case 19:
            most = field.get("max_values") or 1
            return (
                f'<div class="drop"><b>Upload</b> or drop {"a file" if most == 1 else f"up to {most} files"} here</div>'
            )
        case 21 | 22:
            round_ = " round" if field["type"] == 21 else ""
            return "".join(f'<div class="check{round_}{" on" if each.get("default") else ""}"><span class="box"></span>'
                           f"{escape(each['label'])}</div>" for each in field["options"])  # fmt: skip
        case 23:
            return f'<div class="check{" on" if field.get("default") else ""}"><span class="box"></span></div>'
    return _select(field)
