"""Add the processes that run, and requests to stop replies of other processes.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables, empty."""
    op.create_table(
        "processes",
        sa.Column("owner", sa.Text(), nullable=False, comment="Process, as in turns.owner"),
        sa.Column(
            "alive_until", TIME, nullable=False, comment="Renewed every 15 seconds; by the clock of the database"
        ),
        sa.Column(
            "lost_at", TIME, nullable=True, comment="When another process found it not renewed; NULL while it lives"
        ),
        sa.PrimaryKeyConstraint("owner", name="pk_processes"),
        comment="Running bots; a row that is not renewed tells other hosts that its process has died",
    )
    op.create_index("ix_processes_alive_until", "processes", ["alive_until"])
    op.create_table(
        "stop_requests",
        sa.Column(
            "interaction_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Interaction whose reply is to stop",
        ),
        sa.Column(
            "user_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Who clicked; the process that writes the reply decides whether they may",
        ),
        sa.Column(
            "managed_guild_id", sa.BigInteger(), nullable=True, comment="Guild that they manage, if they manage one"
        ),
        sa.Column("requested_at", TIME, nullable=False, comment="When Stop was clicked"),
        sa.PrimaryKeyConstraint("interaction_id", "user_id", name="pk_stop_requests"),
        comment="Replies that a member wants to stop; the process that writes the reply deletes the row",
    )
    op.create_index("ix_stop_requests_at", "stop_requests", ["requested_at"])


def downgrade() -> None:
    """Drop the tables; they hold nothing that outlives a restart."""
    op.drop_table("stop_requests")
    op.drop_table("processes")
