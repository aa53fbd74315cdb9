"""The README and .env.example list the settings, folders and make targets that exist."""

import re
from pathlib import Path

from bot.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->(.*)<!-- /{marker} -->", README, flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_every_setting_is_in_the_table():
    listed = set(re.findall(r"^\| `([A-Z_]+)` ", between("settings"), flags=re.MULTILINE))
    assert listed == {name.upper() for name in Settings.model_fields}


def test_every_setting_is_in_the_example():
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    listed = set(re.findall(rf"^(?:# )?{PREFIX}([A-Z_]+)=", example, flags=re.MULTILINE))
    assert listed == {name.upper() for name in Settings.model_fields}


def test_the_tree_names_every_folder_and_no_other():
    named = set(re.findall(r"(?<![\w/])([a-z_]+)/", between("tree")))
    top = {path for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    packages = {path.parent.name for folder in top for path in folder.rglob("__init__.py")}
    assert named - {"tests", "fakes", "golden", "docs"} == packages - {"versions"}


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^|\| )make ([a-z][a-z-]*)", README, flags=re.MULTILINE)) <= targets
