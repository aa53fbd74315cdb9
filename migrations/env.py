"""Runs revisions on the connection it is given (models.migrate), or on GUILDLLAMA_DATABASE_URL for the alembic command.

The transaction belongs to whoever opened the connection, and holds every revision of one run.
"""

import os

from alembic import context
from sqlalchemy import Connection

from models.engines import sync_engine
from models.tables import Base
from models.urls import sync_url


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        raise SystemExit("offline SQL is not supported: revisions move data; run `guildllama db upgrade`")
    given = context.config.attributes.get("connection")
    if isinstance(given, Connection):
        run(given)
        return
    url = context.config.attributes.get("url") or os.environ.get(
        "GUILDLLAMA_DATABASE_URL", "sqlite:///data/guildllama.db"
    )
    engine = sync_engine(sync_url(str(url)), foreign_keys=False)
    try:
        with engine.begin() as connection:
            run(connection)
    finally:
        engine.dispose()


main()
