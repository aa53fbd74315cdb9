"""pytest-alembic's fixtures, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.config import Config
from sqlalchemy import Engine

from models.engines import sync_engine
from models.migrate import alembic_config as make_config
from models.urls import sync_url


@pytest.fixture
def alembic_config(empty_url: str) -> Config:
    return make_config(empty_url)


@pytest.fixture
def alembic_engine(empty_url: str) -> Iterator[Engine]:
    engine = sync_engine(sync_url(empty_url), foreign_keys=False)
    yield engine
    engine.dispose()
