"""A Hugging Face hub over real HTTP: the few routes that are asked, strict about them, with faults on demand."""

from tests.fakes.hub.catalogue import use_catalogue
from tests.fakes.hub.server import FakeFile, FakeHub, FakeRepo

__all__ = ["FakeFile", "FakeHub", "FakeRepo", "use_catalogue"]
