"""Alembic's environment: runs revisions on the connection that models/migrate.py passes in.

Without one (the `alembic` command) it connects to GUILDLLAMA_DATABASE_URL. The transaction that the connection is in
holds every revision of the run.
"""

import os

from alembic import context
from sqlalchemy import Connection

from models.engines import sync_engine
from models.tables import Base
from models.urls import sync_url


def run(connection: Connection) -> None:
    """Configure Alembic for this connection and run the revisions."""
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
    """Run on the given connection, or on one to the configured URL."""
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
