"""Which Discord application the database belongs to: two bots must not share their members' dialogs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.queries.common import insert_if_absent
from models.queries.scope import cross_tenant
from models.tables import Delivery, DiscordApplication


@cross_tenant("the whole database belongs to one application")
async def claim_database(session: AsyncSession, *, application_id: int, now: datetime) -> int:
    """Return the application that the database belongs to: this one, if it has belonged to none."""
    await insert_if_absent(session, DiscordApplication, id=1, application_id=application_id, since=now)
    owner: int = (await session.scalars(select(DiscordApplication.application_id))).one()
    return owner


@cross_tenant("the whole database belongs to one application")
async def disown_database(session: AsyncSession) -> int | None:
    """Let the database belong to the application that is started next; return the one that it belonged to, if any.

    Deliveries that are not finished are given up: another application cannot change what this one has shown.
    """
    await session.execute(
        update(Delivery).where(Delivery.state != "done").values(state="done", reply_token=None, owner=None)
    )
    owner: int | None = await session.scalar(delete(DiscordApplication).returning(DiscordApplication.application_id))
    return owner
