"""Tenant isolation: every query requires the key, and random operations give the same histories as plain dicts."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import models.queries
from bot.guilds.privacy import PrivacyService
from models import queries
from models.database import Database
from models.errors import DuplicateInteraction
from models.queries import inspection
from models.queries.scope import MARKER
from models.types import DialogKey, PersonaScope, StoredLevel, TurnResult, TurnSnapshot
from tests.postgres import Postgres

START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
# Helpers that choose no rows by themselves: their caller passes a statement, or a row that it found by its key.
NO_TENANT_ROWS = {
    "count_rows", "rows_of", "change", "insert_if_absent", "ensure_guild", "ensure_user", "pairs_before", "files_of",
    "add_files", "retract_deliveries", "messages_of", "record_of", "close_where", "close_delivery", "prompts_of",
    "forget_summaries_of_turns", "forget_memory_of_turns", "upsert", "page_of",
    "answer_timings", "next_members",
}  # fmt: skip


def query_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public coroutine function of every query module."""
    for module_info in pkgutil.walk_packages(models.queries.__path__, "models.queries."):
        module = importlib.import_module(module_info.name)
        for name, value in vars(module).items():
            if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield f"{module.__name__}.{name}", value


class TestSignatures:
    def test_fault_34_every_query_takes_the_key_or_is_marked(self) -> None:
        found = dict(query_functions())
        assert len(found) > 50
        for name, function in found.items():
            if name.rpartition(".")[2] in NO_TENANT_ROWS:
                continue
            key = inspect.signature(function, eval_str=True).parameters.get("key")
            reason = getattr(function, MARKER, None)
            assert (key is None) != (reason is None), f"{name} must take the key or be marked, and not both"
            if key is not None:
                assert key.kind is inspect.Parameter.KEYWORD_ONLY, name
                assert key.default is inspect.Parameter.empty, name
                assert key.annotation is DialogKey, name
            else:
                assert len(str(reason)) > 10, name

    def test_the_exported_queries_that_cross_tenants(self) -> None:
        crossing = {name for name in queries.__all__ if hasattr(getattr(queries, name), MARKER)}
        assert crossing == {
            "guild_joined", "guild_removed", "interrupt_dead_turns",
            "reconcile_guilds",
        }  # fmt: skip

    def test_every_argument_is_keyword_only(self) -> None:
        for name, function in query_functions():
            if name.rpartition(".")[2] in NO_TENANT_ROWS:
                continue
            positional = [
                parameter.name
                for parameter in inspect.signature(function).parameters.values()
                if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            ]
            assert positional == ["session"], name


GUILDS = (0, 100, 101)
USERS = (7, 8)
CHANNELS = (0, 5)
EVERY_KEY = sorted(
    {DialogKey(g, u, c if g else 0) for g in GUILDS for u in USERS for c in CHANNELS},
    key=lambda key: (key.guild_id, key.user_id, key.channel_id),
)
KEYS = st.builds(
    lambda guild, user, channel: DialogKey(guild, user, channel if guild else 0),
    st.sampled_from(GUILDS), st.sampled_from(USERS), st.sampled_from(CHANNELS),
)  # fmt: skip
PLACES: dict[StoredLevel, int] = {"guild": 0, "member": 0, "category": 4, "channel": 5, "thread": 6}
LEVELS: st.SearchStrategy[StoredLevel] = st.sampled_from(sorted(PLACES))
SCOPES = st.builds(
    PersonaScope, st.sampled_from([0, 4]), st.sampled_from([0, 5]), st.sampled_from([0, 6]), st.booleans()
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)


def result(reply: str) -> TurnResult:
    return TurnResult(reply, 3, 2, "stop", 1, 2)


class Tenants(RuleBasedStateMachine):
    """Random operations on guilds, direct messages, members and channels, compared with a model made of dicts."""

    make_url: ClassVar[Callable[[], tuple[str, Callable[[], None]]]]

    @initialize()
    def open(self) -> None:
        url, self.dispose = type(self).make_url()
        self.runner = asyncio.Runner()
        self.database = Database(url, application_id=11, guarded=True)
        self.now = START
        self.other_bot = Database(url, application_id=22, guarded=True)
        self.runner.run(self.fill_other_bot())
        self.pairs: dict[DialogKey, list[tuple[str, str]]] = {}
        self.running: list[tuple[DialogKey, TurnSnapshot, str]] = []
        self.personas: dict[tuple[int, StoredLevel, int], str] = {}
        self.interactions: set[int] = set()
        self.opted_out: set[int] = set()
        self.finished: dict[int, list[tuple[int, str, str]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for opened in (self.database, self.other_bot):
                self.runner.run(opened.close())
            self.runner.close()
            self.dispose()

    async def fill_other_bot(self) -> None:
        """Another application has a pair with each member in each guild, and the personas of all levels."""
        async with self.other_bot.write() as session:
            for key in EVERY_KEY:
                turn = await queries.begin_turn(session, key=key, text="theirs", limit=0, now=START)
                await queries.finish_turn(session, key=key, turn_id=turn.turn_id, result=result("theirs"), now=START)
                await queries.set_persona(
                    session, key=key, level="member", name="Theirs", prompt="theirs", author_id=key.user_id, now=START
                )

    def write(self, query: Callable[..., Any], **arguments: Any) -> Any:
        self.now += timedelta(seconds=1)

        async def act() -> Any:
            async with self.database.write() as session:
                return await query(session, **arguments)

        return self.runner.run(act())

    @rule(key=KEYS, text=TEXTS, interaction=st.integers(1, 30) | st.none(), scope=SCOPES)
    def begin(self, key: DialogKey, text: str, interaction: int | None, scope: PersonaScope) -> None:
        arguments = {"key": key, "text": text, "limit": 3, "interaction_id": interaction, "now": self.now}
        arguments["persona_scope"] = scope
        if interaction in self.interactions:
            with pytest.raises(DuplicateInteraction):
                self.write(queries.begin_turn, **arguments)
            return
        turn = self.write(queries.begin_turn, **arguments)
        if interaction is not None:
            self.interactions.add(interaction)
        assert turn.settings.opted_out == (key.user_id in self.opted_out)
        expected = [] if turn.settings.opted_out else self.pairs.get(key, [])[-3:]
        assert [(pair.user, pair.reply) for pair in turn.history] == expected
        assert (turn.persona.prompt if turn.persona else None) == self.persona_of(key, scope)
        self.running.append((key, turn, text))

    @rule(data=st.data(), reply=TEXTS, other=KEYS)
    def finish(self, data: st.DataObject, reply: str, other: DialogKey) -> None:
        if not self.running:
            return
        key, turn, text = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if other != key:
            assert not self.write(
                queries.finish_turn, key=other, turn_id=turn.turn_id, result=result("stolen"), now=self.now
            )
        remembered = self.write(queries.finish_turn, key=key, turn_id=turn.turn_id, result=result(reply), now=self.now)
        still_open = self.dialogs().get(key) == turn.dialog_id and turn.turn_id != 0
        assert remembered == still_open
        if remembered:
            done = self.finished.setdefault(turn.dialog_id, [])
            done.append((turn.turn_id, text, reply))
            self.pairs[key] = [(user, answer) for _, user, answer in sorted(done)]

    @rule(key=KEYS)
    def reset(self, key: DialogKey) -> None:
        assert self.write(queries.end_dialog, key=key, now=self.now) == len(self.pairs.pop(key, []))

    @rule(key=KEYS, level=LEVELS, prompt=TEXTS)
    def set_persona(self, key: DialogKey, level: StoredLevel, prompt: str) -> None:
        self.write(
            queries.set_persona,
            key=key, level=level, place_id=PLACES[level], name=f"of the {level}", prompt=prompt,
            author_id=key.user_id, now=self.now,
        )  # fmt: skip
        self.personas[self.slot(key, level)] = prompt

    @rule(key=KEYS, level=LEVELS)
    def clear_persona(self, key: DialogKey, level: StoredLevel) -> None:
        cleared = self.write(queries.clear_persona, key=key, level=level, place_id=PLACES[level], now=self.now)
        assert cleared == (self.slot(key, level) in self.personas)
        self.personas.pop(self.slot(key, level), None)

    @rule(key=KEYS, other=KEYS, level=LEVELS)
    def use_a_persona_of_others(self, key: DialogKey, other: DialogKey, level: StoredLevel) -> None:
        """Neither assigned nor changed, read or deleted by who has another library."""
        own = level == "member"
        entry = self.write(queries.latest_persona, key=other, own=own)
        if entry is None or (key.guild_id == other.guild_id and (not own or key.user_id == other.user_id)):
            return
        stolen: dict[str, Any] = {"key": key, "persona_id": entry.persona_id}
        place = {"level": level, "place_id": PLACES[level], "set_by": key.user_id, "now": self.now}
        assert not self.write(queries.assign_persona, **stolen, **place)
        edit = {"prompt": "stolen", "author_id": key.user_id, "now": self.now}
        assert self.write(queries.edit_persona, **stolen, own=own, **edit) is None
        assert self.write(queries.persona_versions, **stolen, own=own) == ()
        assert not self.write(queries.delete_persona, **stolen, own=own)

    @rule(guild=st.sampled_from(GUILDS[1:]))
    def remove_guild(self, guild: int) -> None:
        self.write(queries.guild_removed, guild_id=guild, now=self.now)
        for key in [key for key in self.pairs if key.guild_id == guild]:
            del self.pairs[key]
        self.write(queries.guild_joined, guild_id=guild, now=self.now)

    @rule(user=st.sampled_from(USERS), guild=st.sampled_from([None, *GUILDS]))
    def delete_person(self, user: int, guild: int | None) -> None:
        self.runner.run(PrivacyService(self.database).delete(user, guild_id=guild))
        for key in [key for key in self.pairs if key.user_id == user and guild in (None, key.guild_id)]:
            del self.pairs[key]
        for slot in [slot for slot in self.personas if slot[1:] == ("member", user) and guild in (None, slot[0])]:
            del self.personas[slot]

    @rule(user=st.sampled_from(USERS))
    def opt_out(self, user: int) -> None:
        assert self.runner.run(PrivacyService(self.database).opt_out(user)) == (user not in self.opted_out)
        self.opted_out.add(user)
        for key in [key for key in self.pairs if key.user_id == user]:
            del self.pairs[key]

    @rule(user=st.sampled_from(USERS))
    def opt_in(self, user: int) -> None:
        assert self.runner.run(PrivacyService(self.database).opt_in(user)) == (user in self.opted_out)
        self.opted_out.discard(user)

    @invariant()
    def every_history_equals_the_model(self) -> None:
        if not hasattr(self, "runner"):
            return

        async def read() -> dict[DialogKey, list[tuple[str, str]]]:
            async with self.database.read() as session:
                return {
                    key: [(pair.user, pair.reply) for pair in await queries.history(session, key=key, limit=99)]
                    for key in EVERY_KEY
                }

        async def read_other_bot() -> None:
            async with self.other_bot.read() as session:
                for key in EVERY_KEY:
                    [pair] = await queries.history(session, key=key, limit=99)
                    assert (pair.user, pair.reply) == ("theirs", "theirs")
                    persona = await queries.effective_persona(session, key=key)
                    assert persona is not None
                    assert persona.prompt == "theirs"

        self.runner.run(read_other_bot())
        for key, pairs in self.runner.run(read()).items():
            assert pairs == self.pairs.get(key, [])

    def dialogs(self) -> dict[DialogKey, int]:
        """Open dialog ids by key, as stored."""

        async def read() -> dict[DialogKey, int]:
            async with self.database.read() as session:
                lines = await inspection.dialog_lines(session, limit=9999)
            return {
                DialogKey(line.guild_id, line.user_id, line.channel_id): line.dialog_id
                for line in lines
                if line.ended_at is None
            }

        return self.runner.run(read())

    def slot(self, key: DialogKey, level: StoredLevel) -> tuple[int, StoredLevel, int]:
        return (key.guild_id, level, key.user_id if level == "member" else 0)

    def persona_of(self, key: DialogKey, scope: PersonaScope) -> str | None:
        levels: list[StoredLevel] = ["member"] if scope.own_allowed or key.guild_id == 0 else []
        if key.guild_id:
            levels += ["thread"] if scope.thread_id else []
            levels += ["channel"] if scope.channel_id else []
            levels += ["category"] if scope.category_id else []
            levels += ["guild"]
        return next((self.personas[self.slot(key, lv)] for lv in levels if self.slot(key, lv) in self.personas), None)


def run_machine(make_url: Callable[[], tuple[str, Callable[[], None]]], *, examples: int, steps: int) -> None:
    machine = type("TenantsHere", (Tenants,), {"make_url": staticmethod(make_url)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.fixture(params=["sqlite", "postgres"])
def fresh_urls(request: pytest.FixtureRequest, sqlite_template: Path) -> Callable[[], tuple[str, Callable[[], None]]]:
    def sqlite() -> tuple[str, Callable[[], None]]:
        folder = tempfile.mkdtemp()
        shutil.copy(sqlite_template, f"{folder}/x.db")
        return f"sqlite:///{folder}/x.db", lambda: shutil.rmtree(folder)

    def postgres() -> tuple[str, Callable[[], None]]:
        server: Postgres = request.getfixturevalue("postgres")
        name = server.create_migrated()
        return server.url(name), lambda: server.drop(name)

    if request.param == "postgres":
        request.getfixturevalue("postgres")
        return postgres
    return sqlite


class TestStateMachine:
    def test_fault_34_tenants_are_isolated(self, fresh_urls: Callable[[], tuple[str, Callable[[], None]]]) -> None:
        run_machine(fresh_urls, examples=5, steps=20)

    @pytest.mark.long
    def test_fault_34_tenants_are_isolated_in_long_runs(
        self, fresh_urls: Callable[[], tuple[str, Callable[[], None]]]
    ) -> None:
        run_machine(fresh_urls, examples=150, steps=60)
