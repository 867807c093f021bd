"""How well photos were located: their truth, the figures, and the lists that show both."""
