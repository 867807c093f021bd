"""A georeferenced raster as square tiles of true metres, and the gallery made of them."""
