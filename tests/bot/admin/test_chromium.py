"""The operator's page in a browser: axe finds nothing, no page is wider than a phone, the keyboard is enough.

axe-core comes from the npm registry; without npm or Chromium these are skipped.
"""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import ConsoleMessage, Page

from bot.settings import Settings
from models.database import Database
from tests.bot.admin.admin_kit import BOT, admin_settings
from tests.bot.admin.chromium_kit import DESKTOP, PHONE, browser, metrics_page, served
from tests.bot.admin.story import ANN, CEM, GUILD, tell
from tests.fakes.discord.render import chromium

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium"),
    pytest.mark.timeout(300),
]
HERE = f"/a/{BOT}/guilds/{GUILD}"


@pytest.fixture
async def story(sqlite_url: str) -> AsyncIterator[tuple[Database, Settings, list[str]]]:
    database = Database(sqlite_url, guarded=True)
    async with metrics_page() as metrics:
        settings = admin_settings(admin_port=0, admin_metrics_url=metrics)
        ids = await tell(database, settings)
        yield database, settings, [
            "/settings", f"/a/{BOT}", f"/a/{BOT}/guilds", HERE, f"{HERE}/members", f"{HERE}/members/{ANN}",
            f"/a/{BOT}/members/{ANN}", f"{HERE}/personas", f"{HERE}/personas/{ids['persona']}", f"/a/{BOT}/dialogs",
            f"{HERE}/dialogs/{ids['dialog']}", f"{HERE}/dialogs/{ids[f'dialog of {CEM}']}",
            f"{HERE}/turns/{ids['turn']}",
            f"/a/{BOT}/search?q=chest", f"/a/{BOT}/audit", "/nothing", f"/a/{BOT}/guilds?after=x",
        ]  # fmt: skip
    await database.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    folder = tmp_path_factory.mktemp("axe")

    async def pack() -> int:
        process = await asyncio.create_subprocess_exec(
            npm, "pack", "--silent", "axe-core@4", cwd=folder, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await asyncio.wait_for(process.wait(), 120)

    if asyncio.run(pack()) != 0:
        pytest.skip("axe-core could not be fetched")
    with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
        found = package.extractfile("package/axe.min.js")
        assert found
        return found.read().decode()


async def sign_in_by_keyboard(page: Page, link: str) -> str:
    """Use the link without a mouse; return the server's address."""
    await page.goto(link)
    await page.keyboard.press("Enter")  # its button has the focus
    await page.wait_for_url("**/a/*")
    return link.partition("/login")[0]


async def test_axe_finds_nothing_in_light_and_dark(axe: str, story: tuple[Database, Settings, list[str]]) -> None:
    database, settings, paths = story
    async with browser() as started, served(database, settings) as link:
        context = await started.new_context(viewport=DESKTOP, bypass_csp=True)
        page = await context.new_page()
        base = await sign_in_by_keyboard(page, link)
        found = []
        for path in [*paths, "/login"]:
            for scheme in ("light", "dark"):
                await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                await page.goto(base + path)
                await page.evaluate(axe)
                result = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                found += [
                    f"{path} {scheme}: {each['id']} {node['html'][:150]}"
                    for each in result["violations"]
                    for node in each["nodes"]
                ]
        assert found == []


async def test_on_a_phone_and_with_what_the_browser_says(story: tuple[Database, Settings, list[str]]) -> None:
    database, settings, paths = story
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        said.append(message.text)

    async with browser() as started, served(database, settings) as link:
        page = await started.new_page(viewport=PHONE)
        page.on("console", note)
        base = await sign_in_by_keyboard(page, link)
        for path in paths:
            await page.goto(base + path)
            wide = await page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, path
        # What is not found is told by the browser as well; nothing else is, above all no refused style or script.
        assert [each for each in said if "404" not in each and "400" not in each] == []


async def test_the_keyboard_is_enough(story: tuple[Database, Settings, list[str]]) -> None:
    database, settings, paths = story
    async with browser() as started, served(database, settings) as link:
        page = await started.new_page(viewport=DESKTOP)
        base = await sign_in_by_keyboard(page, link)
        await page.goto(base + f"/a/{BOT}")
        await page.keyboard.press("Tab")
        assert await page.evaluate("() => document.activeElement.className") == "skip"
        await page.keyboard.press("Enter")
        assert await page.evaluate("() => document.activeElement.id") == "content"
        dialog = next(path for path in paths if "/dialogs/" in path)
        await page.goto(base + dialog)
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("() => document.activeElement.textContent") == "End this dialog":
                break
        style = "() => getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(style) == "solid"  # seen
        await page.keyboard.press("Enter")
        await page.get_by_text("ended: operator").wait_for()
