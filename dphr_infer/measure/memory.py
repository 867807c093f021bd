"""How much memory a process took at most, since it was last asked to forget; and what the machine has left.

Linux tells; other systems give None. The peak that `getrusage` and `wait4` tell of a child holds its parent's,
which it shared before its program began.
"""

from __future__ import annotations

import re
from pathlib import Path

_FORGET = Path("/proc/self/clear_refs")
_PEAK_OF_RESIDENT = "5"
_MEMORY_INFO = Path("/proc/meminfo")


def reset_peak() -> bool:
    """Forget the peak so far; False where the system does not allow it, and the peak is then of the whole process."""
    try:
        _FORGET.write_text(_PEAK_OF_RESIDENT)
    except OSError:
        return False
    return True


def peak_bytes(process: int | str = "self") -> int | None:
    """Most resident memory at once, mapped galleries included, of a process that runs, by its number.

    None where the system does not tell, or the process has ended.
    """
    try:
        return kilobytes(Path(f"/proc/{process}/status").read_text(), "VmHWM")
    except OSError:
        return None


def resident_bytes() -> int | None:
    """Resident memory of this process now, mapped galleries included; None where the system does not tell."""
    try:
        return kilobytes(Path("/proc/self/status").read_text(), "VmRSS")
    except OSError:
        return None


def available_bytes() -> int | None:
    """Bytes that programs could take without swapping, what caches hold of files included; None where nothing tells."""
    try:
        return kilobytes(_MEMORY_INFO.read_text(), "MemAvailable")
    except OSError:
        return None


def kilobytes(text: str, field: str) -> int | None:
    """A field "NAME: 12 kB" of a text of /proc in bytes; None where it is missing."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else None
