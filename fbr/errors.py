"""The one exception that means "the input is at fault": a clear line and exit code 2."""

import difflib
from collections.abc import Iterable


class Refusal(Exception):
    """One line for the user: what was found, what was expected, what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
