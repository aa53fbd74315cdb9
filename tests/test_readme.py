"""What the README and .env.example say of the settings, the files and the commands is what there is."""

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


def test_every_module_is_in_the_tree():
    tree = between("tree")
    folders = ("bot", "engine", "models", "migrations")
    modules = {path for folder in folders for path in (ROOT / folder).rglob("*.py") if "versions" not in path.parts}
    missing = sorted(
        str(path.relative_to(ROOT))
        for path in modules
        if path.name not in {"__init__.py", "__main__.py"} and not re.search(rf"(?<![\w]){re.escape(path.name)}", tree)
    )
    assert missing == []


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^|\| )make ([a-z][a-z-]*)", README, flags=re.MULTILINE)) <= targets
