"""`fbr plan`: how long, and how much disk and memory, a target will need, and how that is known."""

import argparse

import yaml

from fbr.costs import Bill, Item
from fbr.workspace import Workspace

MISSING = "–"
COLUMNS = ("stage", "runs", "to do", "GPU", "CPU", "without a GPU", "disk", "memory", "known from")


def main(argv: list[str], workspace: Workspace) -> int:
    """Print what targets will take, stage by stage, beyond what is there; runs nothing."""
    parser = argparse.ArgumentParser(prog="fbr plan", description=main.__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as for Snakemake: seg_voc")
    parser.add_argument(
        "--record", action="store_true", help="print what ran here, for workflow/costs.yaml"
    )
    asked = parser.parse_args(argv)
    if bool(asked.targets) == asked.record:
        parser.error("expected targets, as in `fbr plan seg_voc`, or --record")
    here = Bill(workspace)
    if asked.record:
        rows = [record.model_dump(exclude_none=True) for record in here.recorded]
        layout = {"sort_keys": False, "default_flow_style": None, "width": 1000}
        print(yaml.safe_dump({"records": rows}, **layout), end="")
    else:
        print("\n".join(told(list(here.items(asked.targets)))))
    return 0


def told(items: list[Item]) -> list[str]:
    """The plan as lines: a stage each, then the sums, then what they rest on."""
    left = [item for item in items if not item.done]
    rows = [COLUMNS]
    for name in dict.fromkeys(item.stage.name for item in items):
        rows.append(_row(name, [item for item in items if item.stage.name == name]))
    rows.append((*_row("together", items)[:-1], ""))
    return [*_aligned(rows), "", *_notes(left)]


def _row(name: str, items: list[Item]) -> tuple[str, ...]:
    left = [item for item in items if not item.done]
    gpu, cpu = [i for i in left if i.gpu], [i for i in left if not i.gpu]
    known = [item.bytes for item in left if item.bytes is not None]
    memory = max((item.stage.meta.get("mem_gb", 4) for item in left), default=None)
    return (
        name,
        str(len(items)),
        str(len(left)),
        _bounded([item.at_most for item in gpu], "≤ " if _limited(gpu) else ""),
        _bounded([item.at_most for item in cpu], "≤ " if _limited(cpu) else ""),
        _without(gpu),
        size(sum(known)) if known else MISSING,
        MISSING if memory is None else f"{memory} GB",
        ", ".join(dict.fromkeys(item.on or "limit" for item in left)),
    )


def _limited(items: list[Item]) -> bool:
    return any(item.seconds is None for item in items)


def _without(items: list[Item]) -> str:
    """What GPU stages take on a CPU: at least that of those that are known."""
    known = [item.without for item in items if item.without is not None]
    return _bounded(known, "≥ " if len(known) < len(items) else "")


def _bounded(seconds: list[float], bound: str) -> str:
    return f"{bound}{duration(sum(seconds))}" if seconds else MISSING


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:,.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _notes(left: list[Item]) -> list[str]:
    said = [
        "Recorded seconds, scaled by steps, images and pixels: estimates, FBR's share left out."
    ]
    if limited := dict.fromkeys(item.stage.name for item in left if item.seconds is None):
        said.append(
            "≤ is no estimate but a limit, dvc.yaml's or a CPU's, for want of a record: "
            f"{', '.join(limited)}."
        )
    if slow := dict.fromkeys(item.without_on for item in left if item.without_on):
        said.append(f"Without a GPU means on {', '.join(slow)}.")
    if unknown := dict.fromkeys(item.stage.name for item in left if item.bytes is None):
        said.append(f"Not in the disk's sum: {', '.join(unknown)}.")
    said.append("Memory is what dvc.yaml reserves for one run, the computer's and not the GPU's.")
    return said


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns for a terminal: the first and the last at the left, numbers at the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if 0 < i < len(row) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
