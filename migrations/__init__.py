"""Alembic revisions, and the environment they run in. models/migrate.py runs them."""
