"""The names that recipes may use: keys of the dicts of methods, read without importing torch."""

import ast
from functools import cache
from pathlib import Path

# Where the reader of params.yaml looks a name up: the key, the file, the dict in it.
DICTS = {
    "method": ("cam/__init__.py", "CAM"),
    "network": ("nets/backbones.py", "BACKBONES"),
    "seg_train.head": ("nets/heads.py", "HEADS"),
    "wsis_train.head": ("nets/detectors.py", "DETECTORS"),
    "loss": ("losses/segmentation.py", "LOSSES"),
}


@cache
def names(kind: str) -> list[str]:
    """Keys of one of the dicts, in their order."""
    file, name = DICTS[kind]
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return [key.value for key in node.value.keys]
    raise KeyError(f"{file} has no dict {name}")
