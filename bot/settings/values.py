"""The types of settings whose values need more than a number's bounds: each checks one value, and may rewrite it.

A validator's ValueError says what is wrong with the value, which the message itself never shows. What concerns several
settings is in `bot.settings.settings`.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from bot.settings.addresses import check_url, openai_base_url
from bot.settings.listed_models import parse_models, server_urls
from bot.settings.shard_plan import parse_shards

SPECULATE_MODES = ("auto", "ngram", "off")
"""What `speculate` may be besides a model."""
_ARGON2ID = re.compile(r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$[\w+/]{11,86}\$[\w+/]{22,86}", re.ASCII)


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _database_url(value: str) -> str:
    scheme = value.partition(":")[0].partition("+")[0]
    if scheme not in {"sqlite", "postgres", "postgresql"} or "://" not in value:
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return value


def _server_urls(value: str) -> str:
    """One URL, or several with commas between them."""
    return ",".join(server_urls(value))


def _models(value: str) -> str:
    parse_models(value)
    return value


def _shards(value: str) -> str:
    parse_shards(value)
    return value


def _arguments(value: str) -> str:
    shlex.split(value)
    return value


def _speculate(value: str) -> str:
    return value.lower() if value.lower() in SPECULATE_MODES else value


def _api_base(value: str) -> str:
    return check_url(value.rstrip("/"), "http", "https")


def _gateway_url(value: str) -> str:
    return check_url(value, "ws", "wss")


def _web_url(value: str) -> str:
    return check_url(value.strip(), "http", "https")


def _origin(value: str) -> str:
    url = value.strip().rstrip("/")
    parts = urlsplit(check_url(url, "http", "https"))
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must be a scheme and a host, such as https://admin.example.org")
    return url


def _linked_page(value: str) -> str:
    url = value.strip()
    if any(char.isspace() or char in "<>" or not char.isprintable() for char in url):
        raise ValueError("must be a URL without spaces, < and >")
    return check_url(url, "http", "https")


def _traces_url(value: str) -> str:
    """Collectors take spans at /v1/traces, which is added to a URL without a path."""
    url = value.strip().rstrip("/")
    parts = urlsplit(check_url(url, "http", "https"))
    if parts.username or parts.password:
        raise ValueError("must not contain a password; set OTEL_EXPORTER_OTLP_HEADERS instead")
    return url if parts.path else f"{url}/v1/traces"


def _argon2(value: SecretStr) -> SecretStr:
    """Its cost is bounded here: a check must not take more memory than the machine has."""
    found = _ARGON2ID.fullmatch(value.get_secret_value().strip())
    if found is None or int(found[1]) > 1 << 20 or int(found[2]) > 100 or int(found[3]) > 16:
        raise ValueError("must be what `guildllama admin password` prints, between single quotes")
    return SecretStr(found[0])


def _one_line(value: str) -> str:
    line = value.strip()
    if not line or not line.isprintable():
        raise ValueError("must be one line of text, such as an e-mail address")
    return line


Upper = BeforeValidator(_upper)
Lower = BeforeValidator(_lower)
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
EngineUrl = Annotated[str, AfterValidator(openai_base_url)]
EngineUrls = Annotated[str, AfterValidator(_server_urls)]
Models = Annotated[str, AfterValidator(_models)]
Shards = Annotated[str, AfterValidator(_shards)]
Arguments = Annotated[str, AfterValidator(_arguments)]
Speculate = Annotated[str, AfterValidator(_speculate)]
ApiBase = Annotated[str, AfterValidator(_api_base)]
GatewayUrl = Annotated[str, AfterValidator(_gateway_url)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
Origin = Annotated[str, AfterValidator(_origin)]
LinkedPage = Annotated[str, AfterValidator(_linked_page)]
TracesUrl = Annotated[str, AfterValidator(_traces_url)]
PasswordHash = Annotated[SecretStr, AfterValidator(_argon2)]
OneLine = Annotated[str, AfterValidator(_one_line)]
