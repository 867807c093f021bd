"""How much memory a process took at most, since it was last asked to forget. Linux tells; others give None.

The peak that `getrusage` and `wait4` tell of a child holds its parent's, which it shared before its program began.
"""

from __future__ import annotations

import re
from pathlib import Path

_FORGET = Path("/proc/self/clear_refs")
_PEAK_OF_RESIDENT = "5"


def reset_peak() -> bool:
    """Forget the peak so far; False where the system does not allow it, and the peak is then of the whole process."""
    try:
        _FORGET.write_text(_PEAK_OF_RESIDENT)
    except OSError:
        return False
    return True


def peak_mb() -> float | None:
    """`peak_bytes` of this process, in megabytes."""
    found = peak_bytes()
    return None if found is None else found / 1e6


def peak_bytes(process: int | str = "self") -> int | None:
    """Most resident memory at once, mapped galleries included, of a process that runs, by its number.

    None where the system does not tell, or the process has ended.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found.group(1)) if found else None
