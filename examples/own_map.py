"""A georeferenced map of your own becomes a gallery, and a photo a position on it.

python examples/own_map.py samples/bundle samples/brighton_beach/brighton_beach.tif own.gallery 26 4 \
    samples/brighton_beach/photos/DJI_0029.JPG
"""

import sys

import dphr_infer as dphr


def main(bundle: str, map_tif: str, gallery: str, tile_m: str, stride_m: str, photo: str) -> None:
    """Index the map, say what the gallery holds, and locate one photo on it."""
    made = dphr.index(
        map_tif, bundle=bundle, out=gallery, tile_m=float(tile_m), stride_m=float(stride_m), max_nodata=0.5
    )
    print(f"{made.indexed} tiles indexed, {made.skipped} skipped: too much of them is empty")

    held = dphr.open_gallery(gallery)
    south, north = held.latitude_deg.min(), held.latitude_deg.max()
    west, east = held.longitude_deg.min(), held.longitude_deg.max()
    print(f"tile centres from {south:.6f}, {west:.6f} to {north:.6f}, {east:.6f}, {held.dim} values per tile")

    middle = dphr.Prior(float(south + north) / 2, float(west + east) / 2, radius_m=200)
    with dphr.open(bundle, held, heading="north") as localizer:
        fix = localizer.locate(photo, prior=middle)
    print(fix)
    for place in fix.places:
        print(f"  {place.point.latitude_deg:.6f}, {place.point.longitude_deg:.6f}, similarity {place.similarity:.4f}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except dphr.DphrError as error:
        sys.exit(str(error))
