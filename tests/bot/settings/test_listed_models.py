"""GUILDLLAMA_MODELS and its keys: what can be written, and what an error says of what cannot."""

from __future__ import annotations

import pytest

from bot.admin.pages.settings import shown_settings
from bot.errors import ConfigError
from bot.settings import Settings, load_settings
from bot.settings.listed_models import ListedModel, parse_models

A, B = "http://a:1", "http://b:2"


@pytest.mark.parametrize(
    ("text", "models"),
    [
        (f"small={A}", [ListedModel("small", None, (f"{A}/v1",))]),
        (f"  small = {A} ;", [ListedModel("small", None, (f"{A}/v1",))]),
        (f"x=org/name:8b@{A}, {B}/api", [ListedModel("x", "org/name:8b", (f"{A}/v1", f"{B}/api"))]),
        (f"x = a@b @ {A}", [ListedModel("x", "a@b", (f"{A}/v1",))]),
        ("x=http://ann:pw@a:1", [ListedModel("x", None, ("http://ann:pw@a:1/v1",))]),
        ("x=id@http://ann:pw@a:1", [ListedModel("x", "id", ("http://ann:pw@a:1/v1",))]),
        (f"one={A}\ntwo={B};\n", [ListedModel("one", None, (f"{A}/v1",)), ListedModel("two", None, (f"{B}/v1",))]),
        ("one=m1@http://a:1;two=m2@http://a:1", [
            ListedModel("one", "m1", (f"{A}/v1",)), ListedModel("two", "m2", (f"{A}/v1",)),
        ]),
        (" ; ", []),
    ],
)  # fmt: skip
def test_what_can_be_written(text: str, models: list[ListedModel]) -> None:
    assert list(parse_models(text)) == models


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("small", "an entry (number 1) that is not of the form NAME=URL or NAME=MODEL@URL"),
        (f"small={A};=", "(number 2)"),
        (f"my model={A}", "the name 'my model'"),
        (f"{'x' * 33}={A}", "1 to 32 letters"),
        (f"ü={A}", "1 to 32 letters"),
        (f"Default={A}", "that is what the one without a name of its own is called"),
        (f"x={A};X={B}", "the name 'X' twice"),
        ("x=llama", "neither URL nor MODEL@URL, such as x=http://10.0.0.5:8000"),
        ("x=ftp://a", "neither URL"),
        (f"x={A},nonsense", "a wrong URL for 'x': it number 2 must begin with http:// or https://"),
        (f"x={A},http://ann:secret@a:1", "number 2 is there twice: http://a:1/v1"),
        (";".join(f"m{number}={A}" for number in range(25)), "lists 25 models; 24 are the most"),
    ],
)
def test_what_cannot(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(env_file=None, models=text)
    assert error.value.setting == "GUILDLLAMA_MODELS"
    assert says in error.value.problem
    assert "secret" not in str(error.value)


def test_each_server_has_its_key_and_no_other_gets_one() -> None:
    settings = Settings(
        _env_file=None,
        engine_url=f"{A},{B}",
        engine_api_key="ka,kb",
        models=f"x={A},{B};y={A},http://c:3;z=http://d:4;w=http://d:4",
        model_api_keys="x = one ; z=k1",
    )
    found = {model.name: [key for _, key in settings.servers_of(model)] for model in settings.listed_models}
    assert found == {"x": ["one", "one"], "y": ["ka", None], "z": ["k1"], "w": [None]}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("y=secret", "a key for a model that GUILDLLAMA_MODELS does not list"),
        ("x=secret,secret,secret", "3 keys for the 2 servers of 'x'"),
        ("x=secret,", "2 keys for the 2 servers"),
        ("secret", "not of the form NAME=KEY"),
        ("x=secret;x=secret", "the name 'x' twice"),
    ],
)
def test_keys_that_fit_nothing(keys: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(env_file=None, models=f"x={A},{B}", model_api_keys=keys)
    assert error.value.setting == "GUILDLLAMA_MODEL_API_KEYS"
    assert says in error.value.problem
    assert "secret" not in str(error.value)


def test_the_admins_page_shows_no_password_of_any_server() -> None:
    secret = "http://ann:secret@a:1?key=secret"
    settings = Settings(
        _env_file=None, engine_url=f"{secret},{secret.replace('a:1', 'b:2')}", models=f"x=id@{secret},{B};y={secret}"
    )
    shown = {name: value for name, value, _ in shown_settings(settings)}
    assert "secret" not in str(shown)
    assert shown["GUILDLLAMA_ENGINE_URL"].count("http://") == 2
    assert shown["GUILDLLAMA_MODELS"].startswith("x=id@http://a:1")
