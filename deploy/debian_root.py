"""Runs the steps of the Dockerfile in a clean Debian root, and uses what comes out, where no Docker runs. Needs root.

    python deploy/debian_root.py                                          # the target bot
    python deploy/debian_root.py --target cpu --build-arg TORCH_INDEX=…   # any other, with its arguments

The root is made by debootstrap (Debian's package of that name) in a temporary folder. The steps run in it in mount and
process namespaces of their own, so that nothing stays behind. Then the image's user, with the root read-only and
without capabilities, as compose.yaml starts it, runs the program and the health check. Knows the instructions
that our Dockerfile has, and refuses others. `--bind` shows a folder of this machine to pip, such as one with wheels.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TMPFS = ("/tmp", "/data", "/cache")  # what is writable in a container
SECONDS = 3000
_INSIDE = "GUILDLLAMA_DEBIAN_ROOT"
# How pip on this machine reaches its registry; no part of the image.
_REGISTRIES = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
_OUR_CERTIFICATES = "/run/certificates.crt"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass
class Image:
    """What the instructions have said so far."""

    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions(text: str, target: str) -> Iterator[tuple[str, str]]:
    """The instructions of a target and of the stages that it is made from, each as a word and the rest."""
    joined = re.sub(r"\\\n\s*(?:#.*\n\s*)*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    steps: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            steps = []
            stages[name] = (base, steps)
        else:
            steps.append((word, rest.strip()))
    chain = [target]
    while stages[chain[0]][0] in stages:
        chain.insert(0, stages[chain[0]][0])
    yield "FROM", stages[chain[0]][0]
    for name in chain:
        yield from stages[name][1]


def build(steps: Sequence[tuple[str, str]], root: Path, source: Path, given: dict[str, str]) -> Image:
    """Carry the steps out in the root. Raises CalledProcessError for one that fails."""
    image = Image()
    for word, rest in steps:
        _say(f"{word} {rest[:110]}")
        match word:
            case "ENV":
                for each in shlex.split(rest):
                    name, _, value = each.partition("=")
                    image.environment[name] = value
            case "ARG":
                name, _, default = rest.partition("=")
                image.arguments[name] = given.get(name, default)
            case "RUN":
                inside(["sh", "-ec", rest], root, image, image.environment | image.arguments | _REGISTRIES)
            case "COPY":
                *sources, target = rest.split()
                for each in sources:
                    _copy(source / each, root / target.lstrip("/"), into=target.endswith("/"))
            case "WORKDIR":
                image.folder = rest
                (root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = "0:0" if rest == "root" else rest
            case "HEALTHCHECK":
                image.health = json.loads(rest[rest.index("CMD ") + 4 :])
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "FROM" | "STOPSIGNAL":
                pass
            case _:
                raise SystemExit(f"debian_root: does not know the instruction {word}")
    return image


def inside(
    command: Sequence[str], root: Path, image: Image, environment: dict[str, str], *, code: int = 0, given: str = ""
) -> str:
    """Run a command in the root as the image's user; returns its standard output. The user has no capabilities."""
    user, group = image.user.split(":")
    capabilities = [] if user == "0" else ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    program = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *capabilities]
    change = ["chroot", str(root), "/usr/bin/env", "-i", "-C", image.folder]
    named = [f"{name}={value}" for name, value in environment.items()]
    done = subprocess.run(
        [*change, *named, *program, *command], input=given, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != code:
        raise SystemExit(f"debian_root: {shlex.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def use(root: Path, image: Image, *, engine: bool) -> None:
    """Start the program as compose.yaml does: read-only root, a few folders in memory, another user than root."""
    subprocess.run(["mount", "--rbind", root, root], check=True)
    for folder in TMPFS:
        # As Docker mounts one; /data and /cache are volumes there.
        options = "mode=1777,noexec,nosuid,nodev" if folder == "/tmp" else "uid=10001,gid=10001,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", f"{root}{folder}"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
    assert image.user == "10001:10001", image.user
    assert image.entrypoint == ["guildllama"], image.entrypoint

    def guildllama(*arguments: str, code: int = 0, given: str = "", **settings: str) -> str:
        return inside(
            [*image.entrypoint, *arguments], root, image, image.environment | settings, code=code, given=given
        )

    _say(guildllama("--version").strip())
    probe = "! touch /opt/guildllama/x 2>/dev/null && ! touch /x 2>/dev/null && touch /data/x"
    inside(["sh", "-c", probe], root, image, image.environment)
    guildllama("init", given="\n\n\n")
    guildllama("db", "upgrade")
    told = json.loads(guildllama("doctor", "--json", code=0 if engine else 1))
    wrong = [each["part"] for each in told["findings"] if each["status"] == "bad"]
    assert wrong == ([] if engine else ["engine"]), told
    # No bot runs with this database: the health check runs, and says so.
    assert "no bot runs" in inside(image.health, root, image, image.environment, code=1)
    assert "GUILDLLAMA_DISCORD_TOKEN" not in guildllama(*image.command, "--help")
    guildllama(*image.command, code=78)  # there is no token
    if engine:
        reply = guildllama("chat", given="Who are you?\n/quit\n")
        assert len(reply.split()) > 1, reply
        _say(f"the model says: {reply.strip()}")


def main() -> None:
    """Parse the command line; first of all, move into namespaces of our own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="bot", help="of the Dockerfile (bot)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="DIR", help="of this machine, for pip; read-only"
    )
    parser.add_argument(
        "--base", type=Path, help="an archive of a debootstrap root: made if it does not exist, else used"
    )
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("debian_root: needs root, for debootstrap, chroot and mount")
    if _INSIDE not in os.environ:
        sys.exit(_in_namespaces())
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    steps = list(instructions(dockerfile, given.target))
    suite = re.fullmatch(r"debian:(\w+)-slim", steps[0][1])
    if suite is None:
        sys.exit(f"debian_root: {steps[0][1]} is no Debian that debootstrap could make")
    place = Path(os.environ[_INSIDE])
    # In this namespace only: it ends with this process, and with it all that is mounted and written below.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12g,mode=0755", "tmpfs", place], check=True)
    root, source = place / "root", place / "source"
    root.mkdir(mode=0o755)
    _bootstrap(suite[1], root, given.base)
    _prepare(root, given.bind)
    _tracked_files(source)
    image = build(steps, root, source, dict(each.split("=", 1) for each in given.build_arg))
    use(root, image, engine=given.target != "bot")
    _say(f"target {given.target}: well")


def _in_namespaces() -> int:
    """Run this program again where its mounts reach nothing else. Deletes no tree: this machine's folders are in it."""
    place = tempfile.mkdtemp(prefix="guildllama-root-")
    again = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, *sys.argv]
    try:
        return subprocess.run(again, env={**os.environ, _INSIDE: place}, check=False).returncode
    finally:
        os.rmdir(place)


def _bootstrap(suite: str, root: Path, base: Path | None) -> None:
    """A minimal Debian, as the slim image is: without recommended packages, with apt."""
    if base is not None and base.exists():
        subprocess.run(["tar", "-xf", base, "-C", root], check=True)
        return
    _say(f"debootstrap {suite}")
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", suite, root], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise SystemExit(f"debian_root: debootstrap: {made.stdout[-2000:]}{made.stderr}")
    if base is not None:
        subprocess.run(["tar", "-cf", base, "-C", root, "."], check=True)


def _prepare(root: Path, binds: Sequence[str]) -> None:
    """Devices, processes and names, and how this machine reaches its package registries."""
    for kind, target in (("proc", "proc"), ("tmpfs", "dev/shm")):
        (root / target).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", kind, kind, root / target], check=True)
    for name in ("null", "zero", "full", "random", "urandom"):
        (root / "dev" / name).touch()
        subprocess.run(["mount", "--bind", f"/dev/{name}", root / "dev" / name], check=True)
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "/etc/apt/apt.conf.d"):
        if Path(path).exists():
            _copy(Path(path).resolve(), root / path.lstrip("/"), into=False)
    if Path(_CERTIFICATES).exists():  # of this machine, whose registry may be one of its own
        _copy(Path(_CERTIFICATES), root / _OUR_CERTIFICATES.lstrip("/"), into=False)
        _REGISTRIES["PIP_CERT"] = _OUR_CERTIFICATES
    for path in binds:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", "-o", "ro", path, root / path.lstrip("/")], check=True)


def _tracked_files(source: Path) -> None:
    """What git tracks: what a fresh clone gives to `docker build`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if into:
        target = target / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def _say(text: str) -> None:
    sys.stderr.write(f"debian_root: {text}\n")


if __name__ == "__main__":
    main()
