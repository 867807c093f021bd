"""From a photo to a position: what a device opens, how a photo is embedded and matched, and the estimate."""
