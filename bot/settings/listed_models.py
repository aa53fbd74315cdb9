"""The models that guilds may choose, as the operator lists them: their names, their servers, and keys for those.

    small = qwen3-4b @ http://10.0.0.5:8000; large = llama-3.1-70b @ http://10.0.0.6:8000, http://10.0.0.7:8000

Reads and checks the text of a setting. Knows no other setting and asks no server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bot.settings.addresses import openai_base_url, without_credentials

MAX_SERVERS = 64
MAX_MODELS = 24
"""With the default one they fill a menu of Discord's."""
MAX_NAME_CHARS = 32
DEFAULT_MODEL = "default"
"""What the model is called that answers where no guild chose another one."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_SERVED = re.compile(r"(?:(?P<id>\S+)\s*@\s*)?(?P<urls>https?://.*)", re.ASCII | re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model. `model_id`: how its servers call it; None: each has only one."""

    name: str
    model_id: str | None
    urls: tuple[str, ...] = field(repr=False)


def server_urls(text: str) -> tuple[str, ...]:
    """One URL, or several with commas between them. Raises ValueError."""
    given = [part for part in text.split(",") if part.strip()]
    if len(given) > MAX_SERVERS:
        raise ValueError(f"names {len(given)} servers; {MAX_SERVERS} are the most")
    urls: list[str] = []
    for number, part in enumerate(given or [text], start=1):
        try:
            url = openai_base_url(part)
        except ValueError as error:
            raise ValueError(str(error) if len(given) < 2 else f"number {number} {error}") from None
        shown = without_credentials(url).lower()
        if shown in (without_credentials(each).lower() for each in urls):
            raise ValueError(f"number {number} is there twice: {shown}")
        urls.append(url)
    return tuple(urls)


def parse_models(text: str) -> tuple[ListedModel, ...]:
    """The models of a list, in its order. Raises ValueError, which names the one that is wrong and no URL."""
    models: list[ListedModel] = []
    for name, value in _entries(text, "NAME=URL or NAME=MODEL@URL"):
        if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
            shown = name[:MAX_NAME_CHARS]
            raise ValueError(
                f"has the name {shown!r}: a name has 1 to {MAX_NAME_CHARS} letters, digits, dots, - and _, "
                "and begins with a letter or digit"
            )
        if name.lower() == DEFAULT_MODEL:
            raise ValueError(f"has a model {name!r}: that is what the one without a name of its own is called")
        if name.lower() in (each.name.lower() for each in models):
            raise ValueError(f"has the name {name!r} twice")
        served = _SERVED.fullmatch(value)
        if served is None:
            raise ValueError(f"says of {name!r} neither URL nor MODEL@URL, such as {name}=http://10.0.0.5:8000")
        try:
            models.append(ListedModel(name, served["id"], server_urls(served["urls"])))
        except ValueError as error:
            raise ValueError(f"has a wrong URL for {name!r}: it {error}") from None
    if len(models) > MAX_MODELS:
        raise ValueError(f"lists {len(models)} models; {MAX_MODELS} are the most")
    return tuple(models)


def parse_keys(text: str, models: Mapping[str, ListedModel]) -> dict[str, tuple[str, ...]]:
    """The keys of each model that has some: one for all of its servers, or one for each. Raises ValueError.

    `models`: by their names. An error names no key.
    """
    keys: dict[str, tuple[str, ...]] = {}
    for name, value in _entries(text, "NAME=KEY"):
        if name not in models:
            raise ValueError("has a key for a model that GUILDLLAMA_MODELS does not list")
        given = tuple(part.strip() for part in value.split(","))
        num_servers = len(models[name].urls)
        if len(given) not in {1, num_servers} or not all(given):
            raise ValueError(
                f"has {len(given)} keys for the {num_servers} servers of {name!r}: one for all, or one for each"
            )
        if name in keys:
            raise ValueError(f"has the name {name!r} twice")
        keys[name] = given
    return keys


def _entries(text: str, form: str) -> Iterator[tuple[str, str]]:
    """Each entry's name and value; between two of them is a semicolon or the end of a line."""
    for number, part in enumerate((each for each in re.split(r"[;\n]", text) if each.strip()), start=1):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise ValueError(f"has an entry (number {number}) that is not of the form {form}")
        yield name.strip(), value.strip()
