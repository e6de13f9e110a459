"""The documentation: links, command lines, navigation, the generated reference, and a site that loads nothing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from lineage import decisions
from lineage.record.events import EventKind
from pipelines import cli

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*ROOT_PAGES, *sorted(DOCS.rglob("*.md"))]
PACKAGES = ("lineage", "data", "serving", "training", "monitoring", "desk", "pipelines")
README_WORDS = 700
BUILD_SECONDS = 300


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    """The generated pages, by path below docs/."""
    sys.path.insert(0, str(DOCS))
    from site_generator import reference

    pages: dict[str, str] = reference.pages()
    return pages


@pytest.fixture(scope="module")
def ledger_page(reference: dict[str, str]) -> ModuleType:
    """The module that collects the kinds of events."""
    return sys.modules["site_generator.ledger_page"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a broken link, anchor or entry of the navigation fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    return folder


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_site_is_built_without_a_broken_link(site: Path) -> None:
    assert (site / "index.html").is_file()
    assert (site / "reference" / "commands.html").is_file()


@pytest.mark.parametrize("page", ROOT_PAGES, ids=name_of)
def test_links_of_the_pages_beside_the_readme_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert targets and not missing


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS


def test_every_page_of_docs_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(_leaves(yaml.safe_load(text)["nav"]))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} <= listed


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for value in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _leaves(value)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_of_code_blocks_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for line in command_lines(page.read_text(encoding="utf-8")):
        try:
            cli.parser().parse_args(shlex.split(line, comments=True)[1:])
        except SystemExit:
            wrong.append(f"{line}: {capsys.readouterr().err.splitlines()[-1]}")
    assert not wrong


def command_lines(text: str) -> Iterator[str]:
    """Every call of `oncoloop` in the code blocks of a page, pipes and assignments taken apart."""
    for line in code_lines(text):
        for part in re.split(r"\s(?:\||&&)\s|\$\(|\)$", line.split("   #")[0]):
            call = re.sub(r"^(\s*[A-Z_]+=\S*\s+)+", "", part).strip()
            if call.startswith("oncoloop ") and not re.search(r"\bCOMMAND\b", call):
                yield call


def code_lines(text: str) -> Iterator[str]:
    """The lines of fenced and of indented code blocks."""
    fence = None
    for line in text.splitlines():
        if mark := re.match(r"\s*```(\w*)", line):
            fence = None if fence is not None else mark[1]
        elif fence in ("", "sh", "bash") or (fence is None and re.match(r"(    ){1,2}(?! )\S", line)):
            yield line.strip()


def test_the_check_of_command_lines_sees_them() -> None:
    text = (
        "    A=1 oncoloop up --links   # all\n    oncoloop login ines | oncoloop signin -\n    T=$(oncoloop login x)\n"
    )
    wanted = ["oncoloop up --links", "oncoloop login ines", "oncoloop signin -", "oncoloop login x"]
    assert list(command_lines(text)) == wanted
    assert sum(len(list(command_lines(page.read_text(encoding="utf-8")))) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_command_that_does_not_exist(page: Path) -> None:
    assert set(re.findall(r"`oncoloop ([a-z]+)", page.read_text(encoding="utf-8"))) <= set(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").split("## [0.1.0]")[0]
    named = set(re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|sh|yaml|md|svg))(?:::\w+)?`", text))
    folders = [ROOT, page.parent]
    moved_pages = (
        "docs/architecture.md",
        "docs/contradictions.md",
        "docs/data-quality.md",
        "docs/de-identification.md",
    )
    removed_files = (
        *moved_pages,
        "docs/gate.md",
        "docs/gate.svg",
        "docs/pool.md",
        "docs/real-data.md",
        "docs/security.md",
    )
    former = set(removed_files) if page.name == "CHANGELOG.md" else set()
    assert not {name for name in named - former if not any((folder / name).exists() for folder in folders)}


def test_the_reference_names_every_command_and_option(reference: dict[str, str]) -> None:
    page = reference["reference/commands.md"]
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(cli.COMMANDS)
    for name, command in cli.COMMANDS.items():
        assert command.example in sections[name]
        for names, _options in command.arguments:
            assert all(f"`{argument}`" in sections[name] for argument in names), (name, names)


def test_the_reference_names_every_setting(reference: dict[str, str]) -> None:
    page = reference["reference/settings.md"]
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    missing = [key for key in _keys(shipped) if f"| `{key}` |" not in page]
    assert not missing


def _keys(record: dict[str, Any], before: str = "") -> Iterator[str]:
    """The dotted keys of params.yaml; every task is `TASK`."""
    for name, value in record.items():
        key = f"{before}TASK" if before == "tasks." else f"{before}{name}"
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{key}.")
        elif name != "prepare":
            yield key


def test_every_number_among_the_settings_has_a_unit(reference: dict[str, str]) -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| (?:whole number|number) \| (.*?) \|", reference["reference/settings.md"], re.M
    )
    assert len(rows) > 60
    assert not [key for key, unit in rows if not unit and not key.endswith("seed")]


def test_the_reference_names_every_module(reference: dict[str, str]) -> None:
    for package in PACKAGES:
        page = reference[f"reference/packages/{package}.md"]
        paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("*.py")]
        names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
        assert names == set(re.findall(r"^#+ (\S+) \{", page, re.MULTILINE))


def test_the_reference_names_every_kind_of_event(reference: dict[str, str], ledger_page: ModuleType) -> None:
    page = reference["reference/ledger-events.md"]
    kinds = set(re.findall(r"^## (\S+) \{", page, re.MULTILINE))
    assert kinds == set(EventKind)
    assert set(decisions.KINDS) <= kinds
    assert all(kind.subject in page and kind.payload in page for kind in EventKind)


def test_every_event_of_the_code_is_of_a_kind_and_every_kind_is_written(ledger_page: ModuleType) -> None:
    writings, others = ledger_page.writings()
    assert not others, "the kind of these events is not a member of EventKind"
    assert {writing.kind for writing in writings} == set(EventKind)
    sources = "\n".join(
        path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    )
    literal = r"\b(?:ledger\.(?:append|events)|decisions\.(?:record|pending_decisions))\(\s*(?:kind=)?[\"']"
    assert not re.findall(literal, sources), "these kinds are written as text"


def test_an_event_with_a_literal_kind_is_listed_as_an_error(
    ledger_page: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "lost.py"
    append = "    ledger.append({}, 'workspace', {{}})\n"
    kinds = ("'keys.lost'", "EventKind.KEYS_LOST", "EventKind.KEYS_FOUND", "KIND")
    lines = ["from lineage.record import ledger\n", "from lineage.record.events import EventKind\n", "def lose():\n"]
    path.write_text("".join([*lines, *(append.format(kind) for kind in kinds)]))
    module = sys.modules["site_generator.source"].Module("lost", path)
    monkeypatch.setattr(ledger_page, "modules", lambda: [module])
    writings, others = ledger_page.writings()
    assert [writing.kind for writing in writings] == [EventKind.KEYS_LOST]
    assert others == ["lost:4", "lost:6", "lost:7"]


def test_the_reference_names_every_column_and_path(reference: dict[str, str]) -> None:
    from data.core_types import OPTIONAL_METADATA, REQUIRED_METADATA

    page = reference["reference/metadata-columns.md"]
    assert all(f"| `{name}` |" in page for name in REQUIRED_METADATA + OPTIONAL_METADATA)
    assert all(f" {path}\n" in reference["reference/http-api.md"] for path in ("/predict", "/manifest", "/readyz"))


class Sources(HTMLParser):
    """Collects what a page makes a browser load: scripts, styles, fonts, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policies: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found += [values[name] for name in ("src", "srcset") if name in values]
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href", ""))
        if values.get("http-equiv", "").lower() == "content-security-policy":
            self.policies.append(values["content"])


def test_the_site_loads_nothing_from_outside(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        sources = Sources()
        sources.feed(page.read_text(encoding="utf-8"))
        assert sources.found and not [name for name in sources.found if re.match(r"(\w+:)?//", name)], page
        assert len(sources.policies) == 1 and "default-src 'self'" in sources.policies[0], page
        assert "http" not in sources.policies[0]
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", text), style


def test_a_browser_asks_for_nothing_outside(site: Path, chromium: Any) -> None:
    context = chromium.new_context()
    asked: list[str] = []
    errors: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index.html", "explanation/training-gate.html", "reference/commands.html"):
        page.goto((site / name).as_uri())
        page.wait_for_load_state("networkidle")
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not errors
    context.close()
