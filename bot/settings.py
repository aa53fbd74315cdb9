"""The settings: one typed object, read from GUILDLLAMA_* variables and from .env.

Built once when a command starts and passed down; nothing else reads the environment. Knows which values are valid, not
what they are used for.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from bot.addresses import check_url, is_loopback, openai_base_url
from bot.errors import ConfigError
from bot.listed_models import ListedModel, parse_keys, parse_models, server_urls
from bot.shard_plan import ShardPlan, parse_shards
from bot.units import CENTURY, Duration, Seconds, Size

PREFIX = "GUILDLLAMA_"
EMBEDDED_MODEL = "smollm2"
"""The name of the small model that is installed with the program."""
SPECULATE_MODES = ("auto", "ngram", "off")
"""What `speculate` may be besides a model."""
NOT_SETTINGS = frozenset({f"{PREFIX}CRASH_AT"})
"""Variables with our prefix that are not settings: hooks for tests."""

DEFAULT_PERSONA = "You are a helpful assistant. Answer briefly."
_ARGON2ID = re.compile(r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$[\w+/]{11,86}\$[\w+/]{22,86}", re.ASCII)
EMBEDDED_DEFAULTS: Mapping[str, object] = {
    "persona": "You are a helpful AI assistant named Llama. Answer in one short sentence.",
    "temperature": 0.2,
    "frequency_penalty": 0.3,
}
"""Defaults for the embedded model, in place of the general ones. Long instructions and a high temperature confuse
it, and without the penalty it falls into loops. It says who it is if the persona uses the words of its training."""


class Settings(BaseSettings):
    """The operator's settings. Each field is read from the variable GUILDLLAMA_ plus the field's name."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Discord
    discord_token: SecretStr | None = None
    discord_api_base: str | None = None
    discord_gateway_url: str | None = None
    discord_cdn_url: str | None = None
    message_content: bool = False
    shard_count: int | None = Field(None, ge=1, le=10_000)
    shard_id: int | None = Field(None, ge=0, validate_default=True)
    shards: str | None = Field(None, validate_default=True)

    # Database
    database_url: str = Field("sqlite:///data/guildllama.db", repr=False)
    encryption_keys: SecretStr | None = None

    # Engine: our own on this machine, or any OpenAI-compatible servers at engine_url
    engine_url: str | None = None
    engine_api_key: SecretStr | None = None
    models: str | None = Field(None, repr=False)
    model_api_keys: SecretStr | None = None
    model: str = EMBEDDED_MODEL
    models_dir: str = Field("data/models", min_length=1)
    model_hint: bool = True
    gpus: int | None = Field(None, ge=1, le=64)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    chat_template: str | None = None
    quantize: Literal["auto", "none", "int8", "int4", "fp8"] = "auto"
    speculate: str = Field("auto", min_length=1)
    kv_host_memory: str = "auto"
    kv_dir: str | None = None
    kv_dir_size: str = "4GiB"
    engine_args: str = ""

    # The prompt and the reply
    max_chat_logs: int = Field(10, ge=0, le=1000)
    trim_step: int = Field(1, ge=1, le=1000)
    max_seq_len: int | None = Field(None, ge=64)
    max_reply_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.6, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    thinking: bool = False
    show_thinking_time: bool = True

    # Memory beyond the prompt, for members who ask for it
    memory: bool = True
    memory_tokens: int = Field(300, ge=0, le=8192)

    # Limits
    max_message_chars: int = Field(4000, ge=1)
    max_persona_chars: int = Field(4000, ge=1)
    max_character_chars: int = Field(24_000, ge=1)
    persona: str = DEFAULT_PERSONA
    max_waiting: int = Field(128, ge=1)
    member_minute_messages: int = Field(30, ge=1, le=1_000_000)
    member_running_replies: int = Field(2, ge=1, le=1000)
    member_daily_messages: int | None = Field(None, ge=0)
    member_daily_tokens: int | None = Field(None, ge=0)
    guild_minute_messages: int = Field(600, ge=1, le=1_000_000)
    guild_running_replies: int = Field(64, ge=1, le=100_000)
    guild_daily_messages: int | None = Field(None, ge=0)
    guild_daily_tokens: int | None = Field(None, ge=0)
    max_files: int = Field(4, ge=0, le=10)
    max_file_size: Size = Field(256 << 10, ge=1, le=16 << 20)
    max_raw_file_size: Size = Field(8 << 20, ge=1, le=64 << 20)
    reply_timeout: Seconds = Field(120.0, gt=0, le=31_536_000)
    shutdown_grace: Seconds = Field(20.0, ge=0, le=31_536_000)

    # Safety, where guilds switch it on
    moderation_url: str | None = None
    moderation_model: str | None = None
    moderation_api_key: SecretStr | None = None
    moderation_fail: Literal["closed", "open"] = "closed"

    # Cleanup
    session_ttl: Duration = timedelta(days=7)
    retention_days: int = Field(30, ge=0, le=CENTURY.days)
    report_retention_days: int = Field(30, ge=0, le=CENTURY.days)
    cleanup_interval: Duration = timedelta(hours=1)

    # The operator's web page
    admin_host: str = Field("127.0.0.1", min_length=1, max_length=255)
    admin_port: int = Field(8790, ge=0, le=65535)
    admin_password_hash: SecretStr | None = None
    admin_url: str | None = None
    admin_metrics_url: str | None = None

    # What members are told of their data
    privacy_policy_url: str | None = Field(None, max_length=500)
    privacy_contact: str | None = Field(None, max_length=200)

    # What operators watch
    metrics_port: int | None = Field(None, ge=0, le=65_535)
    metrics_allow_remote: bool = False
    metrics_host: str = "127.0.0.1"
    traces_url: str | None = None
    traces_ratio: float = Field(1.0, ge=0, le=1)

    # Log
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["pretty", "json"] = "pretty"

    @model_validator(mode="before")
    @classmethod
    def _suit_the_embedded_model(cls, values: dict[str, object]) -> dict[str, object]:
        given = {name: value for name, value in values.items() if value is not None}
        model = given.get("model", EMBEDDED_MODEL)
        embedded = isinstance(model, str) and _is_embedded(given.get("engine_url"), model)
        return {**EMBEDDED_DEFAULTS, **values} if embedded else values

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("log_format", "device", "quantize", "moderation_fail", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("speculate")
    @classmethod
    def _mode_or_model(cls, value: str) -> str:
        return value.lower() if value.lower() in SPECULATE_MODES else value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        scheme = value.partition(":")[0].partition("+")[0]
        if scheme not in {"sqlite", "postgres", "postgresql"} or "://" not in value:
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return value

    @field_validator("moderation_url")
    @classmethod
    def _moderation_base_url(cls, value: str | None) -> str | None:
        return None if value is None else openai_base_url(value)

    @field_validator("engine_url")
    @classmethod
    def _engine_base_urls(cls, value: str | None) -> str | None:
        """One URL, or several with commas between them."""
        return None if value is None else ",".join(server_urls(value))

    @field_validator("models")
    @classmethod
    def _readable_models(cls, value: str | None) -> str | None:
        if value is not None:
            parse_models(value)
        return value

    @field_validator("model_api_keys")
    @classmethod
    def _keys_of_listed_models(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and "models" in info.data:  # else the list is wrong, and told of
            listed = parse_models(info.data["models"] or "")
            parse_keys(value.get_secret_value(), {model.name: model for model in listed})
        return value

    @field_validator("engine_api_key")
    @classmethod
    def _a_key_for_each(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        num_servers = len((info.data.get("engine_url") or "").split(","))
        num_keys = 1 if value is None else len(value.get_secret_value().split(","))
        if num_servers > 1 and num_keys not in {1, num_servers}:
            raise ValueError(f"has {num_keys} keys for {num_servers} servers: one for all, or one for each")
        return value

    @field_validator("discord_api_base", "discord_cdn_url")
    @classmethod
    def _api_base(cls, value: str | None) -> str | None:
        return value if value is None else check_url(value.rstrip("/"), "http", "https")

    @field_validator("discord_gateway_url")
    @classmethod
    def _gateway_url(cls, value: str | None) -> str | None:
        return value if value is None else check_url(value, "ws", "wss")

    @field_validator("admin_url")
    @classmethod
    def _origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = value.strip().rstrip("/")
        parts = urlsplit(check_url(url, "http", "https"))
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("must be a scheme and a host, such as https://admin.example.org")
        return url

    @field_validator("admin_metrics_url")
    @classmethod
    def _metrics_url(cls, value: str | None) -> str | None:
        return value if value is None else check_url(value.strip(), "http", "https")

    @field_validator("admin_password_hash")
    @classmethod
    def _argon2(cls, value: SecretStr | None) -> SecretStr | None:
        """Its cost is bounded here: a check must not take more memory than the machine has."""
        if value is None:
            return None
        found = _ARGON2ID.fullmatch(value.get_secret_value().strip())
        if found is None or int(found[1]) > 1 << 20 or int(found[2]) > 100 or int(found[3]) > 16:
            raise ValueError("must be what `guildllama admin password` prints, between single quotes")
        return SecretStr(found[0])

    @field_validator("privacy_policy_url")
    @classmethod
    def _web_page(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = value.strip()
        if any(char.isspace() or char in "<>" or not char.isprintable() for char in url):
            raise ValueError("must be a URL without spaces, < and >")
        return check_url(url, "http", "https")

    @field_validator("privacy_contact")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is None:
            return None
        contact = value.strip()
        if not contact or not contact.isprintable():
            raise ValueError("must be one line of text, such as an e-mail address")
        return contact

    @field_validator("persona")
    @classmethod
    def _usable_persona(cls, value: str, info: ValidationInfo) -> str:
        limit = info.data.get("max_persona_chars", len(value))
        if not value.strip() or "\x00" in value:
            raise ValueError("must be a text without NUL characters")
        if len(value) > limit:
            raise ValueError(f"has {len(value):,} characters; GUILDLLAMA_MAX_PERSONA_CHARS allows {limit:,}")
        return value

    @field_validator("kv_dir")
    @classmethod
    def _sealed_or_not_at_all(cls, value: str | None, info: ValidationInfo) -> str | None:
        keys: SecretStr | None = info.data.get("encryption_keys")
        if value is not None and (keys is None or not keys.get_secret_value().strip(", \n\t")):
            raise ValueError(
                "needs GUILDLLAMA_ENCRYPTION_KEYS: its files are sealed with a key made from the first one"
            )
        return value

    @field_validator("shard_id")
    @classmethod
    def _one_of_the_shards(cls, value: int | None, info: ValidationInfo) -> int | None:
        count = info.data.get("shard_count")
        if (value is None) != (count is None):
            raise ValueError("and GUILDLLAMA_SHARD_COUNT are set together, or neither of them")
        if value is not None and count is not None and value >= count:
            raise ValueError(f"must be below GUILDLLAMA_SHARD_COUNT, which is {count}")
        return value

    @field_validator("metrics_host")
    @classmethod
    def _of_this_machine_alone(cls, value: str, info: ValidationInfo) -> str:
        host = value.strip().removeprefix("[").removesuffix("]")
        if not host or any(char.isspace() for char in host):
            raise ValueError("must be an address or a name of this machine")
        if not is_loopback(host) and not info.data.get("metrics_allow_remote"):
            raise ValueError(
                f"{host} lets other machines read the numbers, without a password; if that is meant, set "
                "GUILDLLAMA_METRICS_ALLOW_REMOTE=true"
            )
        return host

    @field_validator("traces_url")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        """Collectors take spans at /v1/traces, which is added to a URL without a path."""
        if value is None:
            return None
        url = value.strip().rstrip("/")
        parts = urlsplit(check_url(url, "http", "https"))
        if parts.username or parts.password:
            raise ValueError("must not contain a password; set OTEL_EXPORTER_OTLP_HEADERS instead")
        return url if parts.path else f"{url}/v1/traces"

    @model_validator(mode="after")
    def _shards_of_one_kind(self) -> Self:
        if self.shards is None:
            return self
        plan = parse_shards(self.shards)
        if self.shard_id is not None:
            raise ValueError("GUILDLLAMA_SHARDS takes the place of SHARD_ID and SHARD_COUNT: set only one of the two")
        if plan.ids is None and self.database_url.startswith("sqlite"):
            raise ValueError(
                "GUILDLLAMA_SHARDS with auto needs Postgres, where the processes agree on who has which shard"
            )
        return self

    @field_validator("shards")
    @classmethod
    def _readable_shards(cls, value: str | None) -> str | None:
        if value is not None:
            parse_shards(value)
        return value

    @field_validator("engine_args")
    @classmethod
    def _splittable(cls, value: str) -> str:
        shlex.split(value)
        return value

    @property
    def uses_embedded_model(self) -> bool:
        """Whether our own engine speaks with the small embedded model."""
        return _is_embedded(self.engine_url, self.model)

    @property
    def shard_plan(self) -> ShardPlan | None:
        """The shards of GUILDLLAMA_SHARDS; None where this process has one connection."""
        return None if self.shards is None else parse_shards(self.shards)

    @property
    def engine_servers(self) -> tuple[tuple[str, str | None], ...]:
        """Each server of GUILDLLAMA_ENGINE_URL with its API key; () where our own engine is started."""
        if self.engine_url is None:
            return ()
        urls = self.engine_url.split(",")
        key = None if self.engine_api_key is None else self.engine_api_key.get_secret_value()
        keys = [part.strip() or None for part in key.split(",")] if key and len(urls) > 1 else [key]
        return tuple(zip(urls, keys if len(keys) > 1 else keys * len(urls), strict=True))

    @property
    def listed_models(self) -> tuple[ListedModel, ...]:
        """The models that guilds may choose besides the default one."""
        return () if self.models is None else parse_models(self.models)

    def servers_of(self, model: ListedModel) -> tuple[tuple[str, str | None], ...]:
        """Each server of a listed model with its API key. One that is also at GUILDLLAMA_ENGINE_URL has that key."""
        given = self.model_api_keys
        listed = {each.name: each for each in self.listed_models}
        keys = parse_keys(given.get_secret_value(), listed).get(model.name, ()) if given is not None else ()
        if keys:
            return tuple(zip(model.urls, keys if len(keys) > 1 else keys * len(model.urls), strict=True))
        known = dict(self.engine_servers)
        return tuple((url, known.get(url)) for url in model.urls)

    @property
    def model_name(self) -> str | None:
        """The model to ask an external server for, or None to take the one it serves."""
        return self.model if "model" in self.model_fields_set else None


def _is_embedded(engine_url: object, model: str) -> bool:
    return engine_url is None and model.strip() == EMBEDDED_MODEL


def load_settings(*, env_file: str | Path | None = ".env", **overrides: object) -> Settings:
    """The settings of this process. Raises ConfigError for the first one that is not valid.

    An override of None leaves the setting as it is.
    """
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(_env_file=env_file, **given)
    except ValidationError as error:
        raise _config_error(error) from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(str(env_file), f"cannot be read: {error}", "Save it as a UTF-8 text file.") from None


def _config_error(error: ValidationError) -> ConfigError:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    first = details[0]
    problem = first["msg"].removeprefix("Value error, ")
    setting = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else "settings"
    if not first["loc"] and problem.startswith(PREFIX):
        setting, _, problem = problem.partition(" ")  # about several of them, it names one
    more = f" {len(details) - 1} more settings are wrong as well." if len(details) > 1 else ""
    return ConfigError(setting, problem, f"Correct it in the environment or in .env.{more}")


def unknown_variables(
    environ: Mapping[str, str] = os.environ, *, env_file: str | Path | None = ".env"
) -> Iterator[tuple[str, str | None]]:
    """Each GUILDLLAMA_* variable that is not a setting, with the most similar setting: probably a typing error."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    names = set(environ)
    if env_file is not None and Path(env_file).is_file():
        names |= set(dotenv_values(env_file))
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in known | NOT_SETTINGS:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            yield name, near[0] if near else None
