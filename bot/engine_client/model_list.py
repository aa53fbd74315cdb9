"""The models of this bot: the default one, and those that guilds may choose instead, each with its engine.

A guild may have chosen a model that the operator has taken off the list since: the default one then answers, which is
logged once. Knows names and engines; knows neither guilds nor settings.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from bot.engine_client.engine import Engine
from bot.settings.listed_models import DEFAULT_MODEL

log = structlog.get_logger(__name__)


class ModelList:
    """`listed`: by their names, the engines of the models besides the default one."""

    def __init__(self, default: Engine, listed: Mapping[str, Engine] | None = None) -> None:
        self.engines: Mapping[str, Engine] = {DEFAULT_MODEL: default, **(listed or {})}
        """All of them by name, the default one first."""
        self._missed: set[str] = set()

    @classmethod
    def of(cls, engine: Engine | ModelList) -> ModelList:
        """The list itself, or that of a bot with this one model."""
        return engine if isinstance(engine, ModelList) else cls(engine)

    @property
    def default(self) -> Engine:
        """What answers where no model was chosen."""
        return self.engines[DEFAULT_MODEL]

    def applying(self, chosen: str | None) -> str:
        """The name of the model that answers for a guild which has chosen this one; None: none."""
        if chosen is None or chosen in self.engines:
            return chosen or DEFAULT_MODEL
        if chosen not in self._missed:
            self._missed.add(chosen)
            log.warning("a guild has chosen a model that is not listed any more; the default one answers", model=chosen)
        return DEFAULT_MODEL

    def engine(self, chosen: str | None) -> Engine:
        """The engine of that model."""
        return self.engines[self.applying(chosen)]
