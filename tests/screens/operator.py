"""The operator's page, as Chromium shows it: on a wide screen and on a phone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import Page

from bot.admin.views import live
from models.database import Database
from models.migrate import upgrade
from tests.bot.admin.admin_kit import BOT, admin_settings
from tests.bot.admin.chromium_kit import DESKTOP, PHONE, browser, metrics_page, served
from tests.bot.admin.story import ANN, GUILD, tell
from tests.discord.harness import World
from tests.screens.pictures import FOLDER


async def operator(here: World | None = None) -> None:
    """Draw all of its pictures. It has a database of its own."""
    folder = Path(tempfile.mkdtemp())
    live.INTERVAL = 0.1  # a chart of an hour in some seconds
    try:
        url = f"sqlite:///{folder}/story.db"
        upgrade(url)
        database = Database(url, guarded=True)
        async with metrics_page() as metrics, browser() as chromium:
            settings = admin_settings(admin_port=0, admin_metrics_url=metrics)
            ids = await tell(database, settings)
            async with served(database, settings) as link:
                page = await chromium.new_page(viewport=DESKTOP, device_scale_factor=1.5)
                await page.goto(link)
                await page.get_by_role("button", name="Sign in").click()
                await page.wait_for_timeout(3000)
                base, guild = link.partition("/login")[0], f"/a/{BOT}/guilds/{GUILD}"
                pages = {
                    "overview": f"/a/{BOT}",
                    "member": f"{guild}/members/{ANN}",
                    "persona": f"{guild}/personas/{ids['persona']}",
                    "dialog": f"{guild}/dialogs/{ids['dialog']}",
                    "prompt": f"{guild}/turns/{ids['turn']}",
                    "search": f"/a/{BOT}/search?q=chest",
                    "audit": f"/a/{BOT}/audit",
                }
                for name, path in pages.items():
                    await page.goto(base + path)
                    await _shot(page, f"operator-{name}")
                await page.set_viewport_size(PHONE)
                for name in ("overview", "dialog", "member"):
                    await page.goto(base + pages[name])
                    await _shot(page, f"operator-{name}-phone")
                await page.emulate_media(color_scheme="dark")
                await page.goto(base + pages["persona"])
                await _shot(page, "operator-persona-phone-dark")
        await database.close()
    finally:
        shutil.rmtree(folder)


async def _shot(page: Page, name: str) -> None:
    """The whole page, with few colours."""
    target = FOLDER / f"{name}.png"
    await page.screenshot(path=target, full_page=True)
    with Image.open(target) as picture:
        most = picture.convert("RGB").crop((0, 0, picture.width, min(picture.height, 3600)))
    most.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)
