"""Numbers in a page come from committed records: `python -m benchmark.analysis.readme README.md` renders them.

A block begins with `<!-- table: FOLDER EXPERIMENT -->` and ends with `<!-- end -->`; what stands between is replaced.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmark.analysis.curves import read
from benchmark.analysis.tables import markdown, tables

BLOCK = re.compile(r"(<!-- table: (?P<folder>\S+) (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str, home: Path) -> str:
    """The page with every block filled from the records below `home`. ValueError where an experiment is missing."""
    return BLOCK.sub(lambda match: f"{match[1]}{block(home / match['folder'], match['name'])}{match[4]}", page)


def block(folder: Path, name: str) -> str:
    """One experiment's table without its heading."""
    for made in tables(read(str(folder))):
        if made.title == name:
            return markdown(made).split("\n\n", 1)[1]
    raise ValueError(f"{folder} has no experiment {name}")


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(rendered(page.read_text(), page.parent))
