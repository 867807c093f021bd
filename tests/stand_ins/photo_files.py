"""Photos' files as cameras write them, on every Pillow that the runtime allows."""

from __future__ import annotations

import struct
from pathlib import Path


def xmp_option(path: Path, packet: bytes) -> dict[str, bytes]:
    """The option of `Image.save` that writes an XMP packet: a JPEG gets a block, since Pillow before 11 has none."""
    if path.suffix != ".jpg":
        return {"xmp": packet}
    block = b"http://ns.adobe.com/xap/1.0/\0" + packet
    return {"extra": b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block}
