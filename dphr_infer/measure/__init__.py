"""What machine this is and how time passes on it."""
