"""Durations and sizes as people write them: `300ms`, `5s`, `64KiB`. Pure."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", re.ASCII)
_DURATION_S = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|KB|MB|GB)?", re.ASCII)
_SIZE_BYTES = {
    None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
}  # fmt: skip


def duration_s(value: object) -> float:
    """Seconds from `300ms`, `5s`, `10m`, `1h` or a number. ValueError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            raise ValueError("a duration such as 300ms, 5s, 10m or 1h")
        seconds = float(found[1]) * _DURATION_S[found[2]]
    if not 0 <= seconds < 10**9:
        raise ValueError("a duration that is not negative, such as 5s")
    return seconds


def size_bytes(value: object) -> int:
    """Bytes from `64KiB`, `1GiB` or a number. ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError("a size such as 65536, 64KiB, 64MiB or 1GiB")
    return int(found[1]) * _SIZE_BYTES[found[2]]


def duration_text(seconds: float) -> str:
    """A duration as a person would write it."""
    return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:g}s"


def size_text(size: int) -> str:
    """A size in the largest unit that it fills whole."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_BYTES[unit] == 0:
            return f"{size // _SIZE_BYTES[unit]}{unit}"
    return str(size)
