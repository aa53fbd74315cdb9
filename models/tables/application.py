"""Which Discord applications the database serves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Snowflake, UTCDateTime


class DiscordApplication(Base):
    """An application whose bot was started with this database. Rows of tenants belong to one each."""

    __tablename__ = "discord_application"
    __table_args__ = ({"comment": "The Discord applications whose bots use this database"},)

    application_id: Mapped[int] = mapped_column(
        Snowflake, primary_key=True, autoincrement=False, comment="Application whose bot uses it"
    )
    since: Mapped[datetime] = mapped_column(UTCDateTime, comment="When that bot was first started with it")
    given_up_at: Mapped[datetime | None] = mapped_column(
        UTCDateTime, comment="When the operator gave its rows to the next application that is new here"
    )
