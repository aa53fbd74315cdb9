"""The settings: one typed object, read from GUILDLLAMA_* variables and from .env.

Built once when a command starts and passed down; nothing else reads the environment. Knows which values are valid, not
what they are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bot.settings.addresses import is_loopback
from bot.settings.listed_models import ListedModel, parse_keys, parse_models
from bot.settings.shard_plan import ShardPlan, parse_shards
from bot.settings.units import CENTURY, Duration, Seconds, Size
from bot.settings.values import (
    ApiBase,
    Arguments,
    DatabaseUrl,
    EngineUrl,
    EngineUrls,
    GatewayUrl,
    LinkedPage,
    Lower,
    Models,
    OneLine,
    Origin,
    PasswordHash,
    Shards,
    Speculate,
    TracesUrl,
    Upper,
    WebUrl,
)  # fmt: skip

PREFIX = "GUILDLLAMA_"
EMBEDDED_MODEL = "smollm2"
"""The name of the small model that is installed with the program."""

DEFAULT_PERSONA = "You are a helpful assistant. Answer briefly."
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
    discord_api_base: ApiBase | None = None
    discord_gateway_url: GatewayUrl | None = None
    discord_cdn_url: ApiBase | None = None
    message_content: bool = False
    shard_count: int | None = Field(None, ge=1, le=10_000)
    shard_id: int | None = Field(None, ge=0, validate_default=True)
    shards: Shards | None = None

    # Database
    database_url: DatabaseUrl = Field("sqlite:///data/guildllama.db", repr=False)
    encryption_keys: SecretStr | None = None

    # Engine: our own on this machine, or any OpenAI-compatible servers at engine_url
    engine_url: EngineUrls | None = None
    engine_api_key: SecretStr | None = None
    models: Models | None = Field(None, repr=False)
    model_api_keys: SecretStr | None = None
    model: str = EMBEDDED_MODEL
    models_dir: str = Field("data/models", min_length=1)
    model_hint: bool = True
    gpus: int | None = Field(None, ge=1, le=64)
    device: Annotated[Literal["auto", "cpu", "cuda"], Lower] = "auto"
    chat_template: str | None = None
    quantize: Annotated[Literal["auto", "none", "int8", "int4", "fp8"], Lower] = "auto"
    speculate: Speculate = Field("auto", min_length=1)
    kv_host_memory: str = "auto"
    kv_dir: str | None = None
    kv_dir_size: str = "4GiB"
    engine_args: Arguments = ""

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
    moderation_url: EngineUrl | None = None
    moderation_model: str | None = None
    moderation_api_key: SecretStr | None = None
    moderation_fail: Annotated[Literal["closed", "open"], Lower] = "closed"

    # Cleanup
    session_ttl: Duration = timedelta(days=7)
    retention_days: int = Field(30, ge=0, le=CENTURY.days)
    report_retention_days: int = Field(30, ge=0, le=CENTURY.days)
    cleanup_interval: Duration = timedelta(hours=1)

    # The operator's web page
    admin_host: str = Field("127.0.0.1", min_length=1, max_length=255)
    admin_port: int = Field(8790, ge=0, le=65535)
    admin_password_hash: PasswordHash | None = None
    admin_url: Origin | None = None
    admin_metrics_url: WebUrl | None = None

    # What members are told of their data
    privacy_policy_url: Annotated[LinkedPage, Field(max_length=500)] | None = None
    privacy_contact: Annotated[OneLine, Field(max_length=200)] | None = None

    # What operators watch
    metrics_port: int | None = Field(None, ge=0, le=65_535)
    metrics_allow_remote: bool = False
    metrics_host: str = "127.0.0.1"
    traces_url: TracesUrl | None = None
    traces_ratio: float = Field(1.0, ge=0, le=1)

    # Log
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Upper] = "INFO"
    log_format: Annotated[Literal["pretty", "json"], Lower] = "pretty"

    @model_validator(mode="before")
    @classmethod
    def _suit_the_embedded_model(cls, values: dict[str, object]) -> dict[str, object]:
        given = {name: value for name, value in values.items() if value is not None}
        model = given.get("model", EMBEDDED_MODEL)
        embedded = isinstance(model, str) and _is_embedded(given.get("engine_url"), model)
        return {**EMBEDDED_DEFAULTS, **values} if embedded else values

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
