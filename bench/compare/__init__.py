"""What changed between reports, and whether noise alone could have done it."""
