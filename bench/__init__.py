"""How fast a bundle locates photos on this machine, and whether it is still right."""
