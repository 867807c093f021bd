"""What a model is judged on and by: images of a test split, and the reference that it must agree with."""
