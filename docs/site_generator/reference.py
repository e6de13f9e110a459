"""All generated pages of the shelf `reference`.

python docs/site_generator/reference.py FOLDER writes them to a folder, for reading without the site.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DOCS), str(DOCS.parent)]  # this package, and the product's packages before any others

from site_generator import command_page, http_page, ledger_page, metadata_page, package_pages, settings_page  # noqa: E402


def pages() -> dict[str, str]:
    """The text of every generated page, by its path below docs/."""
    return {
        "reference/commands.md": command_page.page(),
        "reference/settings.md": settings_page.page(),
        "reference/metadata-columns.md": metadata_page.page(),
        "reference/http-api.md": http_page.page(),
        "reference/ledger-events.md": ledger_page.page(),
        **package_pages.pages(),
    }


def main() -> None:
    """Write all pages below a folder."""
    target = Path(sys.argv[1])
    for name, text in pages().items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
