"""JSON and CSV: the same rows give the same bytes."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fbr.errors import Refusal
from fbr.files.atomic import write_text


def write_json(path: Path, content: object) -> None:
    """Write readable JSON; a NaN becomes null, which every JSON reader takes."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read JSON, or say which file is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refusal(f"{path}: missing; run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: not valid JSON ({error}); delete it and rerun its stage") from None


def write_csv(path: Path, rows: Iterable[dict]) -> None:
    """Write rows with the keys of the first as header; floats keep full precision."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys() if rows else ["empty"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _plain(v) for k, v in row.items()} for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read rows as text, or say which file is missing or broken."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise Refusal(f"{path}: missing; run the stage that writes it") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: not valid CSV ({error}); delete it and rerun its stage") from None


def read_users_csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a table that somebody wrote, as spreadsheets save it, too.

    Cells may be separated by commas, semicolons or tabs; a row with more cells than the header
    would lose some.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), strict=True)
            for row in reader:
                if None in row:
                    raise Refusal(
                        f"{path}: line {reader.line_num} has more cells than the header; put "
                        "several labels into one cell, with | between them"
                    )
                yield reader.line_num, {key.strip(): value for key, value in row.items()}
    except FileNotFoundError:
        raise Refusal(f"{path}: missing, expected a CSV") from None
    except IsADirectoryError:
        raise Refusal(f"{path}: is a folder, expected a CSV") from None
    except csv.Error as error:
        raise Refusal(f"{path}: not valid CSV ({error}); mend it") from None
    except UnicodeDecodeError:
        raise Refusal(f"{path}: is no text in UTF-8; save it as that") from None
