"""What is measured, one kind a file: a photo, a camera, batches, endurance, start-up."""
