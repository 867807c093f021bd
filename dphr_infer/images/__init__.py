"""Pictures as arrays: reading, model size, turning, the formats of cameras, and what a drone wrote into its photos."""
