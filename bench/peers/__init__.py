"""Other ways to do the same, measured beside ours in turns."""
