"""The one exception that means "the input is at fault": a clear line and exit code 2."""

import difflib
import errno
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

Thing = TypeVar("Thing")
# Nothing can be written here: disk, quota or file limit reached, not allowed to, or another thing
# has the name of a file or of a folder.
NO_ROOM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


class Refusal(Exception):
    """One line for the user: what was found, what was expected, what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def one_of(names: Collection[str], name: str, where: str) -> str:
    """Return the name if it is one of these, else refuse it with the nearest one."""
    if name not in names:
        raise Refusal(
            f"{where}: found '{name}', expected one of {', '.join(names)}.{nearest(name, names)}"
        )
    return name


def chosen(things: Mapping[str, Thing], name: str, where: str) -> Thing:
    """Look a name up, or refuse it with the nearest one."""
    return things[one_of(things, name, where)]
