"""Fingerprints: whether half-done work still is the work to be done."""

import hashlib
from pathlib import Path


def fingerprint(*parts: object) -> str:
    """Hash what a piece of work depends on; files count by content, folders by stat.

    A folder of thousands of maps is told apart by names, sizes and times: good enough to decide
    whether half-done work may continue, and free of a second reading of every file.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path) and part.is_dir():
            for entry in sorted(part.rglob("*")):
                stat = entry.stat()
                digest.update(f"{entry.name}:{stat.st_size}:{stat.st_mtime_ns};".encode())
        elif isinstance(part, Path):
            digest.update(part.read_bytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"|")
    return digest.hexdigest()
