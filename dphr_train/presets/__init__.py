"""Published recipes as data, each in one file that can be read beside its paper."""
