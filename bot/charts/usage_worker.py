"""The worker that draws a guild's use by day: JSON on stdin, a PNG on stdout. The only user of matplotlib."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from datetime import date
from functools import partial
from typing import Any

from bot.attachments.worker import Result, limit_resources, serve

_MEMORY = 2 << 30
_CPU_SECONDS = 30
_WIDTH, _ROW_HEIGHT, _DPI = 5.4, 1.2, 180  # Discord shows it 550 pixels wide: the letters must not be smaller
_BACKGROUND, _TEXT, _GRID, _BARS = "#2b2d31", "#dbdee1", "#4e5058", ("#5865f2", "#23a55a", "#f0b232")
_MAX_LABELS = 7
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "NanumBarunGothic", "Malgun Gothic",
    "Apple SD Gothic Neo", "UnDotum", "Noto Sans CJK JP", "WenQuanYi Zen Hei",
)  # fmt: skip
"""The first one that has all letters of the titles draws them."""


def main() -> None:
    """Draw one picture within limits."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread reserves memory that the limit counts
    folder = tempfile.mkdtemp(prefix="guildllama-chart-")  # before the limits, as nothing is written after them
    os.environ["MPLCONFIGDIR"] = folder  # matplotlib needs one, and would leave its own behind
    limit_resources(memory=_MEMORY, cpu_seconds=_CPU_SECONDS)
    serve(partial(_draw, folder))


def _draw(folder: str, data: bytes) -> Result:
    try:
        return Result("ok", payload=_png(json.loads(data)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _png(wanted: dict[str, Any]) -> bytes:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    panels = wanted["panels"]
    days = [date.fromisoformat(each) for each in wanted["days"]]
    font = _font_for("".join(panel["title"] for panel in panels))
    figure = Figure(figsize=(_WIDTH, _ROW_HEIGHT * len(panels)), dpi=_DPI, facecolor=_BACKGROUND, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel, colour in zip(axes, panels, _BARS, strict=False):
        title = panel["title"] if font else panel["english"]
        axis.bar(range(len(days)), panel["values"], color=colour, width=0.8)
        axis.set_title(title, loc="left", color=_TEXT, fontsize=10, fontfamily=font or _FONTS[0])
        _style(axis, max(panel["values"], default=0))
    step = max(1, -(-len(days) // _MAX_LABELS))
    places = range((len(days) - 1) % step, len(days), step)  # so that today has a label
    axes[-1].set_xticks(list(places), [f"{days[place]:%m-%d}" for place in places])
    image = io.BytesIO()
    figure.savefig(image, format="png", facecolor=_BACKGROUND)
    return image.getvalue()


def _style(axis: Any, highest: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_facecolor(_BACKGROUND)
    axis.set_ylim(0, max(highest, 1) * 1.1)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.tick_params(colors=_TEXT, labelsize=8, length=0)
    axis.grid(axis="y", color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _short(value: float) -> str:
    """12000 as 12k, 3400000 as 3.4M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _font_for(text: str) -> str | None:
    """A font of this machine that has these characters, or None."""
    from matplotlib import font_manager

    wanted = {ord(char) for char in text if not char.isspace()}
    installed = {each.name: each.fname for each in font_manager.fontManager.ttflist}
    return next((name for name in _FONTS if name in installed and _has(installed[name], wanted)), None)


def _has(path: str, wanted: set[int]) -> bool:
    from matplotlib import font_manager

    return wanted <= set(font_manager.get_font(path).get_charmap())


if __name__ == "__main__":
    main()
