"""Values of the database that are kept for a while: read once for all, and never older than a change made here."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from bot.guilds.read_through_cache import ReadThroughCache


class Store:
    """A database of one value for each key, whose reads take until they are let go on."""

    def __init__(self) -> None:
        self.values: dict[str, str | None] = {}
        self.reads: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.is_away = False

    async def read(self, key: str) -> str | None:
        self.reads.append(key)
        found = self.values.get(key)
        await self.may_go_on.wait()
        if self.is_away:
            raise ConnectionError
        return found

    def cache(
        self, *, fresh_for: Callable[[str | None], float] = lambda value: 60.0, max_entries: int = 10
    ) -> ReadThroughCache[str, str | None]:
        return ReadThroughCache(self.read, fresh_for=fresh_for, max_entries=max_entries)


async def test_a_value_is_read_once_also_if_there_is_none() -> None:
    store = Store()
    cache = store.cache()
    assert [await cache.get("a"), await cache.get("a")] == [None, None]
    assert store.reads == ["a"]


async def test_how_long_a_value_is_used_depends_on_it() -> None:
    store = Store()
    store.values["a"] = "known"
    cache = store.cache(fresh_for=lambda value: 0.0 if value is None else 60.0)
    for key in ("a", "b", "a", "b"):
        await cache.get(key)
    assert store.reads == ["a", "b", "b"]
    assert (cache.fresh("a"), cache.last_known("a")) == ("known", "known")


async def test_a_read_that_began_before_a_change_is_not_kept_but_one_of_another_key_is() -> None:
    store = Store()
    store.values |= {"a": "old", "b": "other"}
    cache = store.cache()
    store.may_go_on.clear()
    reads = [asyncio.create_task(cache.get(key)) for key in ("a", "b")]
    await asyncio.sleep(0.01)

    async def change() -> str:
        store.values["a"] = "new"
        return "new"

    await cache.change("a", change)
    store.may_go_on.set()
    assert await asyncio.gather(*reads) == ["old", "other"]
    assert (cache.fresh("a"), cache.fresh("b")) == ("new", "other")


async def test_changes_of_a_key_are_stored_and_kept_in_the_same_order() -> None:
    store = Store()
    cache = store.cache()
    first_may_end = asyncio.Event()

    async def first() -> str:
        store.values["a"] = "first"
        await first_may_end.wait()
        return "first"

    async def second() -> str:
        store.values["a"] = "second"
        return "second"

    changes = [asyncio.create_task(cache.change("a", each)) for each in (first, second)]
    await asyncio.sleep(0.01)
    first_may_end.set()
    await asyncio.gather(*changes)
    assert cache.fresh("a") == store.values["a"] == "second"


async def test_after_a_change_that_failed_the_value_is_read_again() -> None:
    store = Store()
    store.values["a"] = "old"
    cache = store.cache()
    await cache.get("a")

    async def change() -> str:
        store.values["a"] = "stored"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await cache.change("a", change)
    assert cache.last_known("a") is None
    assert await cache.get("a") == "stored"


async def test_all_who_wait_get_the_error_and_the_next_one_reads_again() -> None:
    store = Store()
    cache = store.cache()
    store.is_away = True
    found = await asyncio.gather(cache.get("a"), cache.get("a"), return_exceptions=True)
    assert [type(each) for each in found] == [ConnectionError, ConnectionError]
    store.is_away = False
    assert await cache.get("a") is None
    assert store.reads == ["a", "a"]


async def test_an_error_that_nobody_waits_for_any_more_is_no_unhandled_one() -> None:
    store = Store()
    cache = store.cache()
    store.may_go_on.clear()
    store.is_away = True
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
    asking = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0.01)
    asking.cancel()
    store.may_go_on.set()
    await asyncio.wait([cache.refresh("a")])
    await asyncio.sleep(0)
    gc.collect()
    assert unhandled == []
    assert cache.last_known("a") is None


async def test_the_values_that_were_kept_first_make_room() -> None:
    store = Store()
    cache = store.cache(max_entries=2)
    for key in ("a", "b", "a", "c"):
        await cache.get(key)
    assert store.reads == ["a", "b", "c"]
    await cache.get("b")
    await cache.get("a")
    assert store.reads == ["a", "b", "c", "a"]
