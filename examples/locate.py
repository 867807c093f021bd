"""A folder of photos becomes a GeoJSON file of positions.

python examples/locate.py samples/bundle runs/brighton.gallery samples/brighton_beach/photos track.geojson
"""

import json
import sys
from pathlib import Path

import dphr_infer as dphr


def main(bundle: str, gallery: str, photos: str, out: str) -> None:
    """Locate every photo, turned north by the yaw in its metadata; say which could not be located, and why."""
    features = []
    with dphr.open(bundle, gallery, heading="north") as localizer:
        for fix in localizer.locate_each(photos, on_error=lambda photo, error: print(f"{photo}: {error}")):
            features.append(fix.to_geojson())
            state = fix.verdict if fix.accepted else f"none, ignore it: {fix.reason}"
            print(f"{fix.source}: {fix.latitude_deg:.6f}, {fix.longitude_deg:.6f} ±{fix.radius_m:.0f} m, {state}")
    Path(out).write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except dphr.DphrError as error:  # one line: what is wrong, why, and what to do
        sys.exit(str(error))
