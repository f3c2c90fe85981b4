"""The handwritten digits that come with scikit-learn (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt


def read_digits() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Reads the 1,797 handwritten digits from the file in scikit-learn's package.

    scikit-learn itself is not imported, because that takes a second at the start of every run.

    Returns:
        (1797, 8, 8) grey values 0..16, and (1797,) classes 0..9.
    """
    spec = find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table_N65 = np.loadtxt(path, delimiter=",").astype(np.int64)
    return table_N65[:, :-1].reshape(-1, 8, 8), table_N65[:, -1]
