"""The documents tell the truth: settings and defaults, folders, files, make targets and links all exist as named."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from bot.settings import NOT_SETTINGS, PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / ".env.example"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("tests/**/*.md"))]
HISTORY = {ROOT / "CHANGELOG.md", ROOT / "docs" / "decisions.md"}  # may name what is gone
DEVELOPMENT = {
    f"{PREFIX}{name}" for name in ("THREADS", "NATIVE", "INSTRUCTIONS", "EXCHANGE", "PDL", "REHEARSAL")
} | NOT_SETTINGS
SETTINGS = {name.upper() for name in Settings.model_fields}

PATH = r"(?:bot|engine|models|migrations|tests|docs)/[\w./*-]+"


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def between(path: Path, marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->(.*)<!-- /{marker} -->", text(path), flags=re.DOTALL)
    assert found is not None
    return found[1]


def rows(table: str) -> dict[str, str]:
    """The default of each setting in a Markdown table, as it is written there."""
    found = re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", table, flags=re.MULTILINE)
    return {name: default.strip() for name, default in found}


def assert_default(name: str, value: str) -> None:
    """`value` is the setting's default. An empty one counts as unset, as it does in the environment."""
    field = Settings.model_fields[name.lower()]
    if not value:
        assert not field.default, name
        return
    made = Settings(_env_file=None, **{name.lower(): value})
    assert getattr(made, name.lower()) == field.default, name


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


class TestSettings:
    def test_configuration_lists_all_with_their_defaults(self):
        listed = rows(between(CONFIGURATION, "settings"))
        assert set(listed) == SETTINGS
        for name, default in listed.items():
            assert_default(name, default.strip("`"))

    def test_readme_lists_some_with_their_defaults(self):
        listed = rows(text(README))
        assert set(listed) <= SETTINGS
        for name, default in listed.items():
            if default.startswith("`"):
                assert_default(name, default.strip("`"))

    def test_example_lists_all_with_their_defaults(self, tmp_path: Path):
        active = tmp_path / ".env"
        active.write_text(re.sub(rf"^# (?={PREFIX})", "", text(EXAMPLE), flags=re.MULTILINE), encoding="utf-8")
        listed = dotenv_values(active)
        assert set(listed) == {f"{PREFIX}{name}" for name in SETTINGS}
        for name, value in listed.items():
            assert_default(name.removeprefix(PREFIX), value or "")

    @pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
    def test_no_other_is_mentioned(self, document: Path):
        mentioned = set(re.findall(rf"{PREFIX}[A-Z][A-Z_]*", text(document)))
        assert mentioned <= {f"{PREFIX}{name}" for name in SETTINGS} | DEVELOPMENT


def tree(document: Path) -> set[str]:
    """The folders of a document's tree, in which two spaces of indentation are one level."""
    named: set[str] = set()
    parents: list[str] = []
    for line in re.findall(r"^ *[a-z][a-z0-9_]*/ ", between(document, "tree"), flags=re.MULTILINE):
        parents[(len(line) - len(line.lstrip())) // 2 :] = [line.strip().rstrip("/")]
        named.add("/".join(parents))
    return named


def packages() -> set[str]:
    top = {path.parent for path in ROOT.glob("*/__init__.py")}
    return {str(path.parent.relative_to(ROOT)) for folder in top for path in folder.rglob("__init__.py")}


class TestTree:
    def test_architecture_names_every_package_and_no_other(self):
        assert tree(ARCHITECTURE) - {"tests", "docs"} == packages()

    def test_readme_names_those_of_the_two_upper_levels(self):
        assert tree(README) - {"tests", "docs"} == {name for name in packages() if name.count("/") < 2}

    def test_readme_is_short(self):
        assert len(text(README).splitlines()) <= 200


class TestReferences:
    @pytest.mark.parametrize("document", [path for path in DOCUMENTS if path not in HISTORY], ids=name_of)
    def test_files_and_folders_exist(self, document: Path):
        named = set(re.findall(rf"`({PATH})", text(document)))
        assert sorted(path for path in named if not any(ROOT.glob(path.rstrip("/")))) == []

    def test_names_are_defined_in_the_files_beside_them(self):
        """In the architecture, "`engine/core/step_loop.py` `StepLoop.step`" says where something is defined."""
        missing = []
        for path, name in re.findall(r"`((?:bot|engine|models)/[\w/]+\.py)` `([\w.]+)`", text(ARCHITECTURE)):
            file = ROOT / path
            for part in name.split("."):
                if not file.exists() or not re.search(rf"^\s*(?:async )?(?:def|class) {part}\b", text(file), re.M):
                    missing.append(f"{path} {name}")
                    break
        assert missing == []

    @pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
    def test_make_targets_exist(self, document: Path):
        targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), flags=re.MULTILINE))
        named = set(re.findall(r"(?:`|^|\| |/v1 )make ([a-z][a-z-]*)", text(document), flags=re.MULTILINE))
        assert named <= targets

    @pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
    def test_links_lead_somewhere(self, document: Path):
        for target in re.findall(r"\]\(([^)\s]+)\)", text(document)):
            if "://" in target:
                continue
            file, _, heading = target.partition("#")
            linked = document.parent / file if file else document
            assert linked.exists(), target
            if heading:
                titles = re.findall(r"^#+ (.*)$", text(linked), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert heading in slugs, target
