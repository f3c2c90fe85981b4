"""Data frames of rows whose texts come from files and users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.text.escaping import escape_surrogates

if TYPE_CHECKING:
    import pandas as pd


def build_frame(rows: Iterable[Mapping[str, object]], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Builds a pandas DataFrame in which lone surrogates are escaped: where pyarrow is installed, pandas refuses them.

    Args:
        rows: the rows, by column.
        columns: the columns, also of no rows; None: those of the rows.
    """
    import pandas as pd  # takes a fifth of a second: no run needs it

    escaped = [{name: escape_surrogates(value) for name, value in row.items()} for row in rows]
    return pd.DataFrame(escaped, columns=None if columns is None else list(columns))
