"""A record in words, tables and pictures."""
