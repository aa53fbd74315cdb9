"""Settings: which values are valid, and that an invalid one is one line with the setting's name."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bot.errors import ConfigError
from bot.settings import DEFAULT_PERSONA, EMBEDDED_DEFAULTS, Settings, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing():
    settings = load_settings()
    assert settings.max_chat_logs == 10
    assert settings.top_p == 0.9
    assert settings.session_ttl == timedelta(days=7)
    assert settings.database_url == "sqlite:///data/guildllama.db"
    assert settings.model == "smollm2"
    assert settings.model_name is None  # not chosen: an external server's own model is used


class TestTheEmbeddedModel:
    def test_it_has_defaults_that_suit_it(self):
        settings = load_settings()
        assert settings.uses_embedded_model
        for name, value in EMBEDDED_DEFAULTS.items():
            assert getattr(settings, name) == value

    @pytest.mark.parametrize(
        "variables", [{"MODEL": "qwen3-4b"}, {"ENGINE_URL": "http://x"}, {"ENGINE_URL": "http://x", "MODEL": "smollm2"}]
    )
    def test_other_models_have_the_documented_ones(self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]):
        for name, value in variables.items():
            monkeypatch.setenv(f"GUILDLLAMA_{name}", value)
        settings = load_settings()
        assert not settings.uses_embedded_model
        assert (settings.temperature, settings.frequency_penalty, settings.persona) == (0.6, 0, DEFAULT_PERSONA)

    def test_what_the_operator_sets_is_kept(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("GUILDLLAMA_TEMPERATURE", "1")
        monkeypatch.setenv("GUILDLLAMA_PERSONA", "A pirate.")
        settings = load_settings()
        assert (settings.temperature, settings.persona, settings.frequency_penalty) == (1, "A pirate.", 0.3)


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".env").write_text("GUILDLLAMA_MAX_CHAT_LOGS=3\nGUILDLLAMA_MODEL=x\nGUILDLLAMA_TOP_P=\n")
    monkeypatch.setenv("GUILDLLAMA_MAX_CHAT_LOGS", "4")
    settings = load_settings()
    assert (settings.max_chat_logs, settings.model, settings.top_p) == (4, "x", 0.9)
    assert settings.model_name == "x"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3600", 3600), ("36h", 36 * 3600), ("7d", 7 * 86400), ("90s", 90), ("15m", 900), ("2w", 14 * 86400)],
)
def test_durations(monkeypatch: pytest.MonkeyPatch, text: str, seconds: int):
    monkeypatch.setenv("GUILDLLAMA_SESSION_TTL", text)
    monkeypatch.setenv("GUILDLLAMA_REPLY_TIMEOUT", text)
    settings = load_settings()
    assert settings.session_ttl == timedelta(seconds=seconds)
    assert settings.reply_timeout == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("300", 300), ("256KiB", 256 << 10), ("256 kb", 256 << 10), ("8M", 8 << 20), ("8MiB", 8 << 20), ("9B", 9)],
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, text: str, size: int):
    monkeypatch.setenv("GUILDLLAMA_MAX_FILE_SIZE", text)
    assert load_settings().max_file_size == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_CHAT_LOGS", "-1"),
        ("MAX_CHAT_LOGS", "ten"),
        ("TRIM_STEP", "0"),
        ("TEMPERATURE", "3"),
        ("TEMPERATURE", "nan"),
        ("TOP_P", "0"),
        ("SESSION_TTL", "a week"),
        ("SESSION_TTL", "0"),
        ("SESSION_TTL", "9999999999999999999d"),
        ("REPLY_TIMEOUT", "-5"),
        ("REPLY_TIMEOUT", "inf"),
        ("DATABASE_URL", "mysql://x/y"),
        ("DATABASE_URL", "guildllama.db"),
        ("ENGINE_URL", "localhost:8000"),
        ("ENGINE_URL", "http://"),
        ("DISCORD_API_BASE", "ftp://x"),
        ("DISCORD_GATEWAY_URL", "http://x"),
        ("DISCORD_CDN_URL", "cdn.discordapp.com"),
        ("MAX_FILES", "11"),
        ("MAX_FILE_SIZE", "a page"),
        ("MAX_FILE_SIZE", "1GiB"),
        ("MAX_RAW_FILE_SIZE", "0"),
        ("PRIVACY_POLICY_URL", "example.org/privacy"),
        ("PRIVACY_POLICY_URL", "javascript:alert(1)"),
        ("PRIVACY_POLICY_URL", "https://example.org/a b"),
        ("PRIVACY_POLICY_URL", "https://example.org/>"),
        ("PRIVACY_POLICY_URL", "https://example.org/" + "x" * 500),
        ("PRIVACY_CONTACT", "two\nlines"),
        ("PRIVACY_CONTACT", "   "),
        ("PRIVACY_CONTACT", "x" * 201),
        ("METRICS_PORT", "65536"),
        ("METRICS_HOST", "0.0.0.0"),
        ("METRICS_HOST", "::"),
        ("METRICS_HOST", "bot.internal"),
        ("METRICS_HOST", "192.168.0.1"),
        ("METRICS_HOST", " "),
        ("TRACES_URL", "collector:4318"),
        ("TRACES_URL", "http://me:secret@collector"),
        ("TRACES_RATIO", "1.1"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("GPUS", "0"),
        ("QUANTIZE", "int3"),
        ("PERSONA", "  "),
        ("PERSONA", "x" * 4001),
        ("ENGINE_ARGS", "--x 'unclosed"),
    ],
)
def test_a_value_that_cannot_work_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(f"GUILDLLAMA_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    line = caught.value.line
    assert line.startswith(f"GUILDLLAMA_{name}: ")
    assert "\n" not in line
    assert "pydantic" not in line
    assert "Correct it" in line


def test_a_secret_is_never_repeated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GUILDLLAMA_DISCORD_TOKEN", "very-secret-token")
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", "mysql://me:very-secret-password@host/x")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "secret" not in caught.value.line
    monkeypatch.setenv("GUILDLLAMA_DATABASE_URL", "postgresql://me:very-secret-password@host/x")
    assert "secret" not in repr(load_settings())


def test_several_mistakes_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GUILDLLAMA_TOP_P", "7")
    monkeypatch.setenv("GUILDLLAMA_GPUS", "none")
    with pytest.raises(ConfigError, match="1 more"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/", "http://localhost:11434/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("https://example.org/api/openai", "https://example.org/api/openai"),
    ],
)
def test_an_engine_url_gets_its_v1(given: str, used: str):
    assert load_settings(engine_url=given).engine_url == used


def test_several_engines_and_their_keys():
    settings = load_settings(engine_url=" http://a:1 , https://ann:pw@b.example/v1,http://c:3/api/ ,")
    urls = ["http://a:1/v1", "https://ann:pw@b.example/v1", "http://c:3/api"]
    assert settings.engine_servers == tuple((url, None) for url in urls)
    settings = load_settings(engine_url=settings.engine_url, engine_api_key="one")
    assert [key for _, key in settings.engine_servers] == ["one"] * 3
    settings = load_settings(engine_url=settings.engine_url, engine_api_key="x, ,z")
    assert [key for _, key in settings.engine_servers] == ["x", None, "z"]
    assert load_settings(engine_url="http://a:1", engine_api_key="a,b").engine_servers == (("http://a:1/v1", "a,b"),)
    assert load_settings().engine_servers == ()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"engine_url": "http://a:1,ftp://b"}, "number 2 must begin with http:// or https:// and name a host"),
        ({"engine_url": "http://a:1,b:2"}, "number 2 must begin with"),
        ({"engine_url": ","}, "must begin with"),
        ({"engine_url": "http://a:1,http://x:pw@A:1/v1"}, "number 2 is there twice: http://a:1/v1"),
        ({"engine_url": ",".join(f"http://h{n}" for n in range(65))}, "names 65 servers; 64 are the most"),
        ({"engine_url": "http://a,http://b,http://c", "engine_api_key": "k1,k2"}, "2 keys for 3 servers"),
    ],
)
def test_several_engines_that_cannot_be_meant(values: dict[str, str], problem: str):
    with pytest.raises(ConfigError) as caught:
        load_settings(**values)
    assert problem in caught.value.line
    assert "pw" not in caught.value.line


def test_unknown_variables_are_found_with_what_was_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".env").write_text("GUILDLLAMA_MAX_CHATLOGS=3\nOTHER=1\n")
    environ = {"GUILDLLAMA_DISCORD_TOKN": "x", "GUILDLLAMA_MODEL": "x", "GUILDLLAMA_CRASH_AT": "", "HOME": "/"}
    assert list(unknown_variables(environ)) == [
        ("GUILDLLAMA_DISCORD_TOKN", "GUILDLLAMA_DISCORD_TOKEN"),
        ("GUILDLLAMA_MAX_CHATLOGS", "GUILDLLAMA_MAX_CHAT_LOGS"),
    ]


def test_a_file_that_is_no_text(tmp_path: Path):
    (tmp_path / ".env").write_bytes(b"GUILDLLAMA_MODEL=\xff\xfe")
    with pytest.raises(ConfigError, match=r"\.env: cannot be read"):
        load_settings()


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings(_env_file=None).top_p = 0.5


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.7", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_numbers_are_served_to_this_machine(host: str):
    assert load_settings(metrics_host=host).metrics_host == host.strip("[]")


def test_numbers_are_served_to_others_only_if_that_is_said():
    with pytest.raises(ConfigError, match="GUILDLLAMA_METRICS_ALLOW_REMOTE=true"):
        load_settings(metrics_host="0.0.0.0")
    assert load_settings(metrics_host="0.0.0.0", metrics_allow_remote=True).metrics_host == "0.0.0.0"


def test_the_path_of_traces_is_added_where_there_is_none():
    assert load_settings(traces_url="http://x:4318/").traces_url == "http://x:4318/v1/traces"
    assert load_settings(traces_url="http://x/otlp").traces_url == "http://x/otlp"
