"""Every table. Import from here, so that the metadata is always complete."""

import models.comments  # noqa: F401  teaches SQLite to keep comments
from models.base import Base
from models.tables.dialogs import Dialog, Turn
from models.tables.personas import Persona, PersonaVersion
from models.tables.tenants import Guild, User

__all__ = ["Base", "Dialog", "Guild", "Persona", "PersonaVersion", "Turn", "User"]
