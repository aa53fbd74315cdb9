"""Who gets in: links, passwords, sessions, forms of other pages, names of other hosts, ten thousand tries."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from bot.admin.access.address import check_address
from bot.admin.access.guard import Names
from bot.admin.access.login_pace import ALL_TRIES, TRIES, LoginPace
from bot.admin.access.passwords import check_password
from bot.admin.access.sessions import IDLE_SECONDS, LONGEST_SECONDS, MOST_SESSIONS, OneTimeLink, Sessions
from bot.admin.app import ACTS, PAGES
from bot.admin.pages import login
from bot.errors import ConfigError
from bot.settings.addresses import is_loopback
from models.database import Database
from tests.bot.admin.admin_kit import BASE, BOT, PASSWORD, admin_settings, browser, fill, hashed


@pytest.fixture
async def database(sqlite_url: str):
    opened = Database(sqlite_url, guarded=True)
    yield opened
    await opened.close()


def filled(path: str) -> str:
    """A path of a route with ids."""
    return re.sub(r"\{\w+\}", "1", path.replace("{application}", str(BOT)).replace("{guild}", "100"))


class TestNotSignedIn:
    async def test_every_page_leads_to_the_login(self, database: Database) -> None:
        async with browser(database) as here:
            for path in PAGES:
                answer = await here.get(filled(path))
                assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
                assert answer.text == ""

    async def test_every_form_is_refused(self, database: Database) -> None:
        async with browser(database) as here:
            for path in ACTS:
                answer = await here.post(filled(path), form_token="", typed="1")
                assert answer.status_code == 403, path
                assert "not signed in" in answer.text

    async def test_a_cookie_of_another_server_opens_nothing(self, database: Database) -> None:
        async with browser(database) as here, browser(database) as there:
            await here.sign_in()
            assert (await here.get(f"/a/{BOT}/guilds")).status_code == 200
            there.client.cookies = here.client.cookies
            assert (await there.get(f"/a/{BOT}/guilds")).headers["location"] == "/login"
            for wrong in ("", "x", "x" * 5000, "' OR 1=1 --"):
                answer = await there.get("/", headers={"Cookie": f"guildllama_admin={wrong}"})
                assert answer.headers["location"] == "/login"


class TestLink:
    async def test_works_once_and_by_its_button_alone(self, database: Database) -> None:
        async with browser(database) as here, browser(database) as other:
            other.admin.link = here.admin.link
            token = here.admin.link.make()
            for _ in range(2):  # a chat program looks at the link
                assert "signs you in once" in await here.page(f"/login/{token}")
            answer = await here.send(f"/login/{token}", f"/login/{token}")
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert (await here.get(f"/login/{token}")).status_code == 403
            assert (await other.send("/login", f"/login/{token}")).status_code == 403

    async def test_a_new_one_is_printed_in_the_terminal(self, database: Database) -> None:
        async with browser(database) as here:
            old = here.admin.link.make()
            answer = await here.send("/login", "/login/link")
            assert answer.status_code == 200
            (line,) = here.terminal
            found = re.fullmatch(rf"Open {BASE}/login/([\w-]+) within 10 minutes\. It works once\.", line)
            assert found
            assert found[1] not in answer.text
            assert (await here.get(f"/login/{old}")).status_code == 403
            assert (await here.send(f"/login/{found[1]}", f"/login/{found[1]}")).status_code == 303

    def test_ends_after_ten_minutes(self) -> None:
        now = [0.0]
        link = OneTimeLink(lambda: now[0])
        token = link.make()
        now[0] = 599
        assert link.holds(token)
        now[0] = 600
        assert not link.use(token)
        assert not OneTimeLink().holds("")


class TestPassword:
    async def test_signs_in(self, database: Database) -> None:
        async with browser(database, admin_password_hash=hashed()) as here:
            wrong = await here.send("/login", "/login", password="correct horse batterx")
            assert (wrong.status_code, "not the password" in wrong.text) == (403, True)
            right = await here.send("/login", "/login", password=PASSWORD)
            assert right.status_code == 303
            assert (await here.get("/settings")).status_code == 200
            assert (await here.send("/login", "/login/link")).status_code == 404  # the terminal's way is closed
            assert here.terminal == []

    async def test_odd_ones_are_wrong_ones(self, database: Database) -> None:
        async with browser(database, admin_password_hash=hashed()) as here:
            for odd in ("", "x" * 900, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
                assert (await here.send("/login", "/login", password=odd)).status_code == 403
        assert not check_password("x" * 10_000, hashed())

    @pytest.mark.parametrize(
        "wrong",
        ["secret", "$argon2i$v=19$m=65536,t=3,p=1$5H4lZbXA+BkjjR6oJd7ZBA$NEJa0dRJJ1+vGo6cLiypJP8SQUlF62zY8Rzabi4TrXs",
         "$argon2id$v=19$m=9999999,t=3,p=1$5H4lZbXA+BkjjR6oJd7ZBA$NEJa0dRJJ1+vGo6cLiypJP8SQUlF62zY8Rzabi4TrXs"],
    )  # fmt: skip
    def test_a_hash_that_cannot_be_one(self, wrong: str) -> None:
        with pytest.raises(ConfigError, match="guildllama admin password"):
            admin_settings(admin_password_hash=wrong)

    async def test_hundreds_of_tries(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.tries(database, monkeypatch, 300)

    @pytest.mark.long
    async def test_ten_thousand_tries(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.tries(database, monkeypatch, 10_000)

    async def tries(self, database: Database, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        checks = []
        monkeypatch.setattr(login, "check_password", lambda password, stored: bool(checks.append(password)))
        async with browser(database, admin_password_hash=hashed()) as here, browser(database) as operator:
            await operator.sign_in()
            page = (await here.get("/login")).text
            token = re.search(r'name="form_token" value="([^"]*)"', page)
            assert token

            async def many(number: int) -> set[int]:
                found = set()
                for _ in range(number):
                    answer = await here.post("/login", form_token=token[1], password="guess")
                    found.add(answer.status_code)
                return found

            assert await many(TRIES) == {403}
            assert await many(number) <= {429, 403}
            for _ in range(3):  # time may give a try back just now
                refused = await here.post("/login", form_token=token[1], password="guess")
                if refused.status_code == 429:
                    break
            assert 0 < int(refused.headers["retry-after"]) <= 60
            assert len(checks) <= TRIES + TRIES * 3  # with those that time gave back
            assert (await operator.get("/settings")).status_code == 200

    def test_ten_thousand_networks(self) -> None:
        pace, let_through = LoginPace(lambda: 5.0), 0
        for number in range(10_000):
            address = f"2001:db8:{number:x}::{number:x}"
            if pace.seconds(address) <= 0:
                pace.count(address)
                let_through += 1
        assert let_through == ALL_TRIES

    def test_a_network_has_one_count_and_time_heals(self) -> None:
        now = [0.0]
        pace = LoginPace(lambda: now[0])
        for number in range(TRIES):
            assert pace.seconds(f"2001:db8::{number:x}") == 0
            pace.count(f"2001:db8::{number:x}")
        assert pace.seconds("2001:db8::ffff") > 0
        assert pace.seconds("10.0.0.1") == 0
        now[0] = 60 / TRIES + 0.1
        assert pace.seconds("2001:db8::ffff") == 0


class TestSessions:
    def test_end_by_rest_by_age_and_by_number(self) -> None:
        now = [0.0]
        sessions = Sessions(lambda: now[0])
        resting, busy = sessions.begin(), sessions.begin()
        now[0] = IDLE_SECONDS
        assert sessions.find(busy)
        now[0] += 1
        assert sessions.find(resting) is None
        while now[0] < LONGEST_SECONDS - IDLE_SECONDS:
            now[0] += IDLE_SECONDS - 5
            assert sessions.find(busy)
        now[0] = LONGEST_SECONDS + 1
        assert sessions.find(busy) is None
        first, *rest = [sessions.begin() for _ in range(MOST_SESSIONS + 1)]
        assert sessions.find(first) is None
        assert all(sessions.find(each) for each in rest)

    async def test_signing_out(self, database: Database) -> None:
        async with browser(database) as here:
            await here.sign_in()
            cookie = here.client.cookies["guildllama_admin"]
            assert (await here.send("/settings", "/logout")).headers["location"] == "/login"
            answer = await here.get("/settings", headers={"Cookie": f"guildllama_admin={cookie}"})
            assert answer.headers["location"] == "/login"


class TestForeignRequests:
    async def test_forms_of_other_pages_change_nothing(self, database: Database) -> None:
        ids = await fill(database)
        end = f"/a/{BOT}/guilds/100/dialogs/{ids['ann dialog']}/end"
        async with browser(database) as here, browser(database) as other:
            other.admin.sessions = here.admin.sessions
            await here.sign_in()
            await other.sign_in()
            page = await here.page(f"/a/{BOT}/guilds/100/dialogs/{ids['ann dialog']}")
            mine = re.search(r'name="form_token" value="([^"]*)"', page)
            theirs = re.search(r'name="form_token" value="([^"]*)"', await other.page("/settings"))
            assert mine
            assert theirs
            for headers in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
                {"Origin": BASE, "Sec-Fetch-Site": "same-site"},
                {},
            ):
                assert (await here.post(end, headers=headers, form_token=mine[1])).status_code == 403
            for token in ("", "x", theirs[1]):
                assert (await here.post(end, form_token=token)).status_code == 403
            assert (await here.get(end)).status_code == 405
            answer = await here.client.post(end, json={"form_token": mine[1]}, headers={"Origin": BASE})
            assert answer.status_code == 415
            assert "End this dialog" in await here.page(f"/a/{BOT}/guilds/100/dialogs/{ids['ann dialog']}")

    async def test_other_names_methods_and_sizes(self, database: Database) -> None:
        async with browser(database) as here:
            for host in ("evil.example", "127.0.0.1", "127.0.0.1:8791", "", "127.0.0.1:8790.evil.example"):
                assert (await here.get("/login", headers={"Host": host})).status_code == 421, host
            for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
                assert (await here.client.request(method, "/login")).status_code == 405
            large = await here.client.post("/login", content=b"a" * 20_000, headers={"Origin": BASE})
            assert large.status_code == 413
            assert (await here.get("/login", headers={"Content-Length": "x"})).status_code == 413

    async def test_headers_are_on_every_answer(self, database: Database) -> None:
        async with browser(database) as here:
            await here.sign_in()
            for path in ("/login", "/settings", "/nothing", "/static/admin.css", f"/a/{BOT}/guilds/1"):
                headers = (await here.get(path)).headers
                assert headers["content-security-policy"] == (
                    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
                    "frame-ancestors 'none'; base-uri 'none'"
                )
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["cache-control"] == "no-store"
                assert headers["referrer-policy"] == "same-origin"
                assert "strict-transport-security" not in headers

    async def test_behind_a_proxy_cookies_are_for_https_alone(self, database: Database) -> None:
        async with browser(database, admin_url="https://llama.example") as here:
            token = here.admin.link.make()
            page = await here.get(f"/login/{token}")
            form = re.search(r'name="form_token" value="([^"]*)"', page.text)
            assert form
            answer = await here.post(f"/login/{token}", headers={"Origin": "https://llama.example"}, form_token=form[1])
            assert answer.headers["set-cookie"].startswith("__Host-guildllama_admin=")
            assert "Secure" in answer.headers["set-cookie"]
            assert "max-age" in answer.headers["strict-transport-security"]

    async def test_no_page_has_a_script_or_a_style_of_its_own(self, database: Database) -> None:
        folder = Path(login.__file__).parents[1] / "templates"
        for template in folder.rglob("*.html"):
            assert not re.search(
                r"<script|<style|\sstyle=|\son\w+=|javascript:|\|\s*safe|src=|https?:", template.read_text()
            )


class TestAddress:
    def test_beyond_this_machine_a_password_is_needed(self) -> None:
        for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
            assert not is_loopback(host)
        for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"):
            assert is_loopback(host)
        with pytest.raises(ConfigError, match="there is no password"):
            check_address(admin_settings(admin_host="0.0.0.0"))
        check_address(admin_settings(admin_host="0.0.0.0", admin_password_hash=hashed()))
        assert "[::1]:8790" in Names.of("::1", 8790, None).hosts

    async def test_two_logins_at_once_are_checked_one_by_one(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running, most = [0], [0]

        def check(password: str, stored: str) -> bool:
            running[0] += 1
            most[0] = max(most[0], running[0])
            import time

            time.sleep(0.02)
            running[0] -= 1
            return False

        monkeypatch.setattr(login, "check_password", check)
        async with browser(database, admin_password_hash=hashed()) as here:
            page = (await here.get("/login")).text
            token = re.search(r'name="form_token" value="([^"]*)"', page)
            assert token
            tries = [here.post("/login", form_token=token[1], password="guess") for _ in range(TRIES)]
            answers: list[httpx.Response] = await asyncio.gather(*tries)
            assert {each.status_code for each in answers} == {403}
        assert most == [1]
