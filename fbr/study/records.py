"""What `runs.csv` beside a study's page remembers, for wherever the runs themselves are not.

A checkout brings that file and no results. A run in it is as good as finished while its recipe is
the one that the study asks for; without its line it runs again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from fbr.errors import Refusal
from fbr.files.tables import read_csv
from fbr.study.plan import Axes, Study

TEXT = ("table", "row", "variant", "seed", "recipe", "on")
Key = tuple[str, str, str, str]  # data, seed, variant, recipe


def digest(recipe: object) -> str:
    """A short name of all that a run was asked for."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def key(axes: Axes, recipe: str) -> Key:
    """What a run is known by."""
    data, seed, *variant = axes.values()
    return data, seed, "/".join(variant), recipe


def read(file: Path, study: Study) -> dict[Key, dict[str, Any]]:
    """Every run in the file, as scores with `seconds`, and `on` what its caption says of it."""
    if not file.is_file():
        return {}
    rows = read_csv(file)
    if rows and (lost := [name for name in TEXT if name not in rows[0]]):
        raise Refusal(f"{file}: found no column {', '.join(lost)}; delete it, runs then run again")
    data = {table.name: table.data for table in study.tables}
    return {
        (data[row["table"]], row["seed"], row["variant"], row["recipe"]): _score(row, file)
        for row in reversed(rows)  # of a run that several tables have, the first line is read
        if row["table"] in data
    }


def _score(row: dict[str, str], file: Path) -> dict[str, Any]:
    try:
        numbers = {k: float(v) for k, v in row.items() if k not in TEXT and v}
    except ValueError as error:
        raise Refusal(
            f"{file}: {row['row']} under {row['seed']}: {error}; mend or delete this line"
        ) from None
    return numbers | {"recipe": row["recipe"], "on": row["on"], "seconds": numbers.get("seconds")}
