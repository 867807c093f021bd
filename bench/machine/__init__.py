"""What the machine says of itself while it measures, and its ceilings."""
