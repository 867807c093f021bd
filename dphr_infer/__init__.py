"""What flies: from a photo and a geotagged gallery to a position. NumPy, Pillow and safetensors; never torch."""
