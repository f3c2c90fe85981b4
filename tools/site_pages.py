"""A hook of MkDocs: adds the pages of the site that do not lie in docs/, and makes their links those of the site.

The README is the home page. CONTRIBUTING.md, CHANGELOG.md and the pages of results/benchmarks become pages, and the
gallery shows every figure of docs/figures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

HOME = Path(__file__).resolve().parents[1]
PAGES = {  # of the site, by file of the repository
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/benchmarks/README.md": "benchmarks.md",
    "results/benchmarks/gpu.md": "benchmarks_gpu.md",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages of all strategies in the navigation."""
    [strategies] = [section["Strategies"] for section in config.nav or () if "Strategies" in section]
    pages = sorted(path.name for path in (HOME / "docs" / "strategies").glob("*.md") if path.name != "README.md")
    strategies.extend(f"strategies/{name}" for name in pages)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere, their figures, and the gallery."""
    from mkdocs.structure.files import File  # not above: tests have no MkDocs

    for path, name in PAGES.items():
        text = rewrite_links((HOME / path).read_text(encoding="utf-8"), Path(path).parent)
        files.append(File.generated(config, name, content=text))
    for figure in sorted((HOME / "results" / "benchmarks").glob("*.svg")):
        files.append(File.generated(config, figure.name, abs_src_path=str(figure)))
    files.append(File.generated(config, "gallery.md", content=gallery_page(HOME / "docs")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page of docs/ that lead out of it."""
    if page.file.generated_by is not None:
        return markdown
    return rewrite_links(markdown, Path("docs") / Path(page.file.src_uri).parent)


def rewrite_links(markdown: str, folder: Path) -> str:
    """Returns a page with links to other files of the repository turned into links to pages of the site.

    Args:
        markdown: the page.
        folder: the folder that its links start from, inside the repository.
    """

    def rewrite(match: re.Match[str]) -> str:
        target = normalise(folder / match["path"])
        page = PAGES.get(target)
        if page is None:
            page = target.removeprefix("docs/") if target.startswith("docs/") else None
        if page is None:
            return match[0]
        depth = len(folder.parts) - 1 if folder.parts[:1] == ("docs",) else 0
        return "../" * depth + page + (match["anchor"] or "")

    return LINK.sub(rewrite, markdown)


def normalise(path: Path) -> str:
    """Returns a relative path without `..`."""
    parts = list[str]()
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def gallery_page(docs: Path) -> str:
    """Returns a page that shows every figure of the documentation."""
    lines = [
        "# Figures",
        "",
        "All figures of these pages. `python -m benchmark report` draws such figures of your records.",
    ]
    for folder in sorted(path for path in (docs / "figures").iterdir() if path.is_dir()):
        lines += ["", f"## {folder.name.replace('_', ' ').capitalize()}"]
        for path in sorted(folder.glob("*.svg")):
            name = path.stem.replace("_", " ").replace("-", ", ")
            lines += ["", f"![{name}]({path.relative_to(docs).as_posix()})", "", f"*{name}*"]
    return "\n".join([*lines, ""])
