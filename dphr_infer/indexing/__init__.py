"""A map and a bundle become a gallery."""
