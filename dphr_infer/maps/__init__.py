"""A georeferenced raster as square tiles of true metres, and as pixels around a place."""
