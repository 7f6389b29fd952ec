"""Numbers as people read them."""

from __future__ import annotations

import math
import sys


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, a dash where there is none.

    Example:
        >>> number(0.012345), number(225), number(None), number(1234567.0)
        ('0.0123', '225', '–', '1,234,567')
    """
    if value is None or not abs(value) <= sys.float_info.max:
        return "–"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{value:,.0f}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.{digits - 1}e}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{decimals}f}"


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal: ``97.8 %``."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that fits.

    Example:
        >>> duration(0.0042), duration(8.31), duration(754.0), duration(9000)
        ('4.2 ms', '8.3 s', '12 min 34 s', '2 h 30 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"


def size(num_bytes: float | None) -> str:
    """Bytes in binary units: ``1.5 GiB``."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """``1 update``, ``225 updates``."""
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"
