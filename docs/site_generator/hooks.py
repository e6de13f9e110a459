"""Hooks of MkDocs: adds the generated reference pages, and the screenshots if they were made."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from site_generator import reference

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
PLACE = re.compile(r'^<!-- screenshot: ([\w-]+) "([^"]+)" -->$', re.MULTILINE)  # where a page wants a screenshot


def on_files(files: Any, config: Any) -> Any:
    """Add what is not among the files of docs/: pages written from the code, and pictures of build/screenshots."""
    from mkdocs.structure.files import File

    for name, text in reference.pages().items():
        files.append(File.generated(config, name, content=text))
    for path in sorted(SCREENSHOTS.glob("*.png")):
        files.append(File.generated(config, f"screenshots/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put each screenshot where a page asks for it; without the picture the place stays empty."""
    up = "../" * page.file.src_uri.count("/")

    def picture(match: re.Match[str]) -> str:
        name, title = match.groups()
        return f"![{title}]({up}screenshots/{name}.png)" if (SCREENSHOTS / f"{name}.png").is_file() else ""

    return PLACE.sub(picture, markdown)
