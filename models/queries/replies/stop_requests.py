"""Requests to stop a reply that another process writes. Called by bot/chat/stop_requests.py.

One row asks for one reply, named by the interaction that asked for it: also the reply of a regeneration, whose turn is
not pending, and of a member who opted out, who has no turn at all. The process that writes the reply stops it and
deletes the row. A row that stays was for a reply that no process writes, or came from a member who may not stop it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.application import ours
from models.queries.common import insert_if_absent, rows_of
from models.queries.scope import cross_tenant
from models.tables import StopRequest
from models.types import StopRequester


@cross_tenant("the row names an interaction and holds no data of a tenant")
async def request_stop(session: AsyncSession, *, interaction_id: int, by: StopRequester, now: datetime) -> None:
    """Ask the process that writes the reply to this interaction to stop it, if `by` may."""
    await insert_if_absent(
        session,
        StopRequest,
        interaction_id=interaction_id,
        user_id=by.user_id,
        managed_guild_id=by.managed_guild_id,
        requested_at=now,
    )


_REQUESTED = select(StopRequest.interaction_id, StopRequest.user_id, StopRequest.managed_guild_id).where(
    ours(StopRequest), StopRequest.interaction_id.in_(bindparam("interactions", expanding=True))
)


@cross_tenant("a process looks after its own replies, of every tenant")
async def requested_stops(
    session: AsyncSession, *, interaction_ids: Collection[int]
) -> frozenset[tuple[int, StopRequester]]:
    """Return the interactions whose replies are to stop, each with the person who asked."""
    rows = await rows_of(session, _REQUESTED, {"interactions": list(interaction_ids)})
    return frozenset((row.interaction_id, StopRequester(row.user_id, row.managed_guild_id)) for row in rows)


@cross_tenant("a process looks after its own replies, of every tenant")
async def delete_stop_requests(
    session: AsyncSession, *, interaction_ids: Collection[int], user_id: int | None = None
) -> frozenset[int]:
    """Delete the requests for these replies, or those of one person; return the deleted ones.

    Of two processes that delete one, only one gets it.
    """
    deleted = delete(StopRequest).where(ours(StopRequest), StopRequest.interaction_id.in_(interaction_ids))
    if user_id is not None:
        deleted = deleted.where(StopRequest.user_id == user_id)
    return frozenset(await session.scalars(deleted.returning(StopRequest.interaction_id)))
