"""`guildllama models pull` against a hub over real HTTP."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from bot.cli import main
from bot.hub.machine import Gpu, Machine
from bot.hub.store import ModelStore
from bot.terminal import models_commands
from tests.fakes.hub import FakeFile, FakeHub, FakeRepo, use_catalogue

ROOT = Path(__file__).parents[3]
TINY, UNPINNED = "tiny", "tiny-unpinned"
GGUF = os.urandom(300_000)
REPO, UNPINNED_REPO = "someone/Tiny-GGUF", "someone/Tiny"


@dataclass
class Commands:
    """Runs guildllama with two small models in its catalogue: in this process, or in one of its own to be killed."""

    folder: Path
    hub: FakeHub
    env: dict[str, str]
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    @contextlib.contextmanager
    def start(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "tests.fakes.hub", self.folder / "catalogue.json", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, **pipes, **options)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def in_process_of_its_own(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **options) as process:
            out, err = process.communicate(timeout=120)
            return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self.capture.readouterr()
        self.patch.setattr(sys, "argv", ["guildllama", *arguments])
        self.patch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capture.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out, err)

    def change_catalogue(self, index: int, **values: Any) -> None:
        path = self.folder / "catalogue.json"
        models = json.loads(path.read_text())
        models[index] |= values
        path.write_text(json.dumps(models))
        use_catalogue(path, self.patch.setattr)

    def pull(self, name: str = TINY) -> subprocess.CompletedProcess[str]:
        return self("models", "pull", name)

    @property
    def models(self) -> Path:
        return self.folder / "data" / "models"

    @property
    def gguf(self) -> Path:
        return self.models / TINY / "tiny-q4.gguf"

    @property
    def parts(self) -> list[Path]:
        return sorted(self.models.rglob("*.part"))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    several = {f"tiny.{bits}.gguf": FakeFile(os.urandom(70_000)) for bits in ("Q4_K_M", "Q8_0")}
    repos = {REPO: FakeRepo({"tiny-q4.gguf": FakeFile(GGUF)}), UNPINNED_REPO: FakeRepo(several, commit="ab" * 20)}
    with FakeHub(repos) as server:
        yield server


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    common = {"licence": "MIT", "languages": "none", "parameters": 0.001, "kv_bytes_per_token": 64, "stored_bits": 4}
    repo = hub.repos[REPO]
    pin = {"path": "tiny-q4.gguf", "size": len(GGUF), "sha256": repo.files["tiny-q4.gguf"].sha256}
    tiny = common | {"name": TINY, "repo": REPO, "revision": repo.commit, "file": pin}
    unpinned = common | {"name": UNPINNED, "repo": UNPINNED_REPO, "pattern": "*.Q4_K_M.gguf"}
    (tmp_path / "catalogue.json").write_text(json.dumps([tiny, unpinned]))
    dropped = ("GUILDLLAMA_", "HF_", "HUGGING", "TRANSFORMERS_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
    for name in os.environ.keys() - env.keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    use_catalogue(tmp_path / "catalogue.json", monkeypatch.setattr)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return Commands(tmp_path, hub, env, monkeypatch, capsys)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command: its last line, which is the only one of the error."""
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    assert [line for line in lines if line.startswith("guildllama: ")] == lines[-1:]
    return lines[-1]


def wait_for_part(run: Commands, process: subprocess.Popen[str]) -> None:
    """Until a third of the file has come."""
    while not run.parts or run.parts[0].stat().st_size < 100_000:
        assert process.poll() is None
        time.sleep(0.02)


class TestPull:
    def test_a_pinned_file(self, run: Commands, hub: FakeHub):
        """As a process, so that HF_ENDPOINT and HF_TOKEN come from the environment as they do for people."""
        hub.repos[REPO].gated = True
        hub.tokens["hf_secret"] = True
        run.env["HF_TOKEN"] = "hf_secret"
        done = run.in_process_of_its_own("models", "pull", TINY)
        assert (done.returncode, done.stdout) == (0, f"{run.gguf.relative_to(run.folder)}\n")
        assert run.gguf.read_bytes() == GGUF
        record = json.loads((run.models / TINY / "pulled.json").read_text())
        assert (record["revision"], record["pinned"]) == (hub.repos[REPO].commit, True)
        assert record["file"]["sha256"] == hub.repos[REPO].files["tiny-q4.gguf"].sha256
        assert run.parts == []
        modes = {stat.S_IMODE(path.stat().st_mode) for path in run.models.rglob("*") if path.is_file()}
        assert modes == {0o600}
        assert stat.S_IMODE(run.models.stat().st_mode) == 0o700
        assert run("models", "path", TINY).stdout == done.stdout

    def test_what_is_here_is_not_fetched_again(self, run: Commands, hub: FakeHub):
        run.pull()
        asked = list(hub.asked)
        done = run.pull()
        assert (done.returncode, hub.asked) == (0, asked)
        assert "is here already" in done.stderr

    def test_without_a_pin_what_the_hub_names_is_recorded(self, run: Commands, hub: FakeHub):
        file = hub.repos[UNPINNED_REPO].files["tiny.Q4_K_M.gguf"]
        done = run.pull(UNPINNED)
        assert done.returncode == 0, done.stderr
        assert "no pinned version" in done.stderr
        record = json.loads((run.models / UNPINNED / "pulled.json").read_text())
        assert (record["revision"], record["pinned"]) == ("ab" * 20, False)
        assert record["file"] == {"path": "tiny.Q4_K_M.gguf", "size": 70_000, "sha256": file.sha256}
        assert file.sha256 in done.stderr
        assert done.stdout.strip() == f"data/models/{UNPINNED}/tiny.Q4_K_M.gguf"

    def test_without_a_pin_a_later_pull_holds_to_the_first_one(self, run: Commands, hub: FakeHub):
        run.pull(UNPINNED)
        gguf = run.models / UNPINNED / "tiny.Q4_K_M.gguf"
        before = gguf.read_bytes()
        gguf.unlink()
        hub.repos[UNPINNED_REPO].commit = "cd" * 20
        assert run.pull(UNPINNED).returncode == 0
        assert gguf.read_bytes() == before
        gguf.unlink()
        hub.repos[UNPINNED_REPO].files["tiny.Q4_K_M.gguf"] = FakeFile(b"another one")
        assert "is another file than the one" in one_line(run.pull(UNPINNED))
        assert not gguf.exists()
        run("models", "remove", UNPINNED, "--yes")
        assert run.pull(UNPINNED).returncode == 0
        assert gguf.read_bytes() == b"another one"

    @pytest.mark.parametrize("name", ["tiny-q4.gguf", "tiny-v2-q4.gguf"])
    def test_a_changed_pin_is_fetched(self, run: Commands, hub: FakeHub, name: str):
        """As a newer version of guildllama does that knows a better file by the same name."""
        run.pull()
        better = FakeFile(os.urandom(200_000))
        hub.repos[REPO].files = {name: better}
        run.change_catalogue(0, file={"path": name, "size": 200_000, "sha256": better.sha256})
        assert run("models", "path", TINY).returncode == 1
        assert run.pull().returncode == 0
        assert [path.read_bytes() for path in run.gguf.parent.glob("*.gguf")] == [better.data]
        assert run("models", "path", TINY).stdout.strip() == f"data/models/{TINY}/{name}"

    def test_what_must_be_set_for_this_machine_is_said(self, run: Commands):
        run.change_catalogue(0, parameters=30, stored_bits=8)
        machine = Machine(64 * 10**9, 8, (Gpu("a", 24 * 10**9), Gpu("b", 24 * 10**9)))
        run.patch.setattr(models_commands, "this_machine", lambda: machine)
        assert "GUILDLLAMA_MODEL=tiny GUILDLLAMA_QUANTIZE=int4 uses it." in run.pull().stderr
        run.change_catalogue(0, parameters=60, stored_bits=8)
        assert "GUILDLLAMA_MODEL=tiny GUILDLLAMA_QUANTIZE=int4 GUILDLLAMA_GPUS=2 uses it." in run.pull().stderr

    def test_a_renamed_repository(self, run: Commands, hub: FakeHub):
        hub.repos["someone/New"] = hub.repos.pop(REPO)
        hub.renamed[REPO] = "someone/New"
        assert run.pull().returncode == 0

    def test_a_commit_that_is_gone_while_the_file_is_still_there(self, run: Commands, hub: FakeHub):
        hub.repos[REPO].commit = "12" * 20
        done = run.pull()
        assert (done.returncode, run.gguf.read_bytes() == GGUF) == (0, True)
        assert "newest one" in done.stderr


class TestCutConnections:
    def test_it_goes_on_in_the_same_run(self, run: Commands, hub: FakeHub):
        hub.cuts += [120_000, 60_000]
        assert run.pull().returncode == 0
        assert run.gguf.read_bytes() == GGUF
        assert hub.ranges[0] is None
        assert None not in hub.ranges[1:]
        assert hub.sent < len(GGUF) + 100_000

    def test_a_killed_process_goes_on_in_the_next_run(self, run: Commands, hub: FakeHub):
        hub.pace = 0.05
        with run.start("models", "pull", TINY) as process:
            wait_for_part(run, process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        kept = run.parts[0].stat().st_size
        assert run("models", "path", TINY).returncode == 1
        hub.pace, hub.ranges = 0, []
        done = run.pull()
        assert (done.returncode, hub.ranges) == (0, [f"bytes={kept}-"])
        assert "going on after" in done.stderr
        assert run.gguf.read_bytes() == GGUF

    def test_a_store_that_knows_no_ranges(self, run: Commands, hub: FakeHub):
        hub.cuts, hub.ignores_ranges = [120_000], True
        assert run.pull().returncode == 0
        assert run.gguf.read_bytes() == GGUF

    def test_a_link_that_expires_on_the_way(self, run: Commands, hub: FakeHub):
        hub.cuts, hub.links_work_once = [120_000, 60_000], True
        assert run.pull().returncode == 0
        assert run.gguf.read_bytes() == GGUF
        assert None not in hub.ranges[1:]
        assert hub.sent < len(GGUF) + 100_000

    def test_a_store_that_refuses_every_link(self, run: Commands, hub: FakeHub):
        """The first may have expired; a new one that is refused at once says that others would be, too."""
        hub.refuses_links = True
        assert one_line(run.pull()) == ("guildllama: The hub's links to tiny-q4.gguf do not work. Pull again later.")
        assert hub.links == 2

    def test_a_store_that_stops_sending(self, run: Commands, hub: FakeHub):
        hub.stalls.append(100_000)
        run.patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        assert run.pull().returncode == 0
        assert run.gguf.read_bytes() == GGUF

    def test_ctrl_c_keeps_what_has_come(self, run: Commands, hub: FakeHub):
        hub.pace = 0.5
        # A shell lets the children of a background job ignore Ctrl-C: here it counts.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with run.start("models", "pull", TINY, preexec_fn=heed) as process:
            wait_for_part(run, process)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "goes on" in err.splitlines()[-1]
        assert run.parts


class TestRefusals:
    def test_wrong_bytes_are_deleted(self, run: Commands, hub: FakeHub):
        hub.repos[REPO].files["tiny-q4.gguf"].wrong = True
        done = run.pull()
        assert (done.returncode, run.parts, run.gguf.exists()) == (1, [], False)
        assert "wrong sum" in one_line(done)

    def test_another_file_than_the_known_one_is_not_even_loaded(self, run: Commands, hub: FakeHub):
        hub.repos[REPO].files["tiny-q4.gguf"] = FakeFile(os.urandom(300_000))
        done = run.pull()
        assert (done.returncode, hub.ranges) == (1, [])
        assert "is another file than the one" in one_line(done)

    def test_too_little_room_is_found_before(self, run: Commands, hub: FakeHub):
        hub.repos[REPO].files["tiny-q4.gguf"].claimed_size = 1 << 60
        done = run.pull()
        assert (done.returncode, hub.ranges) == (1, [])
        assert "too little room" in one_line(done)

    def test_a_disk_that_is_full_halfway(self, run: Commands, hub: FakeHub):
        """A limit on the size of files stands for it: writing fails in the same place."""
        limit = 200_000

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = run.in_process_of_its_own("models", "pull", TINY, preexec_fn=limited)
        assert done.returncode == 1
        assert "disk is full" in one_line(done)
        kept = run.parts[0].stat().st_size
        assert 0 < kept <= limit
        hub.ranges = []
        assert run.pull().returncode == 0
        assert hub.ranges == [f"bytes={kept}-"]

    @pytest.mark.parametrize(
        ("token", "words"), [(None, "with a token of your account in HF_TOKEN"), ("hf_new", "has no access yet")]
    )
    def test_a_gate(self, run: Commands, hub: FakeHub, token: str | None, words: str):
        hub.repos[REPO].gated = True
        hub.tokens["hf_new"] = False
        if token:
            run.patch.setenv("HF_TOKEN", token)
        line = one_line(run.pull())
        assert words in line
        assert f"{hub.url}/{REPO}" in line

    def test_a_token_that_nobody_knows(self, run: Commands):
        run.patch.setenv("HF_TOKEN", "hf_stolen")
        line = one_line(run.pull())
        assert "does not accept the token" in line
        assert "hf_stolen" not in line

    def test_a_repository_that_is_gone(self, run: Commands, hub: FakeHub):
        del hub.repos[REPO]
        assert f"has no {REPO}" in one_line(run.pull())

    def test_a_file_that_is_gone(self, run: Commands, hub: FakeHub):
        hub.repos[REPO].files = {"other.gguf": FakeFile(b"x")}
        assert "no file tiny-q4.gguf any more" in one_line(run.pull())

    @pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (500, "The hub answered 500")])
    def test_a_hub_in_trouble(self, run: Commands, hub: FakeHub, status: int, words: str):
        hub.status = status
        assert words in one_line(run.pull())

    def test_no_hub_at_all(self, run: Commands):
        run.patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        run.patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        line = one_line(run.pull())
        assert "http://127.0.0.1:9 cannot be reached" in line

    def test_offline(self, run: Commands, hub: FakeHub):
        run.patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set" in one_line(run.pull())
        assert hub.asked == []

    def test_names_of_the_hub_stay_in_the_folder(self, run: Commands, hub: FakeHub):
        hub.repos[UNPINNED_REPO].files = {"../../outside.Q4_K_M.gguf": FakeFile(b"x")}
        assert "no plain name" in one_line(run.pull(UNPINNED))
        assert not list(run.folder.rglob("outside*"))

    def test_without_a_pin_it_must_be_one_file(self, run: Commands, hub: FakeHub):
        hub.repos[UNPINNED_REPO].files["more.Q4_K_M.gguf"] = FakeFile(b"x")
        assert "does not have one file *.Q4_K_M.gguf, but 2" in one_line(run.pull(UNPINNED))

    def test_two_at_once(self, run: Commands, hub: FakeHub):
        with ModelStore(run.models).locked(TINY) as alone:
            assert alone
            assert "Another process pulls tiny" in one_line(run.pull())
        assert hub.asked == []
        assert run.pull().returncode == 0

    def test_a_name_that_is_not_known(self, run: Commands):
        done = run.pull("tinny")
        assert done.returncode == 78
        assert "Did you mean tiny" in one_line(done)


class TestRemove:
    def test_it_asks(self, run: Commands):
        run.pull()
        done = run("models", "remove", TINY)  # standard input is at its end
        assert done.returncode == 1
        assert run.gguf.exists()

    def test_yes(self, run: Commands):
        run.pull()
        assert run("models", "remove", TINY, "--yes").returncode == 0
        assert not (run.models / TINY).exists()
        assert run("models", "remove", TINY, "--yes").stdout == "tiny is not here.\n"
