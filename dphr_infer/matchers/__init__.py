"""Exact top-k search over gallery rows on the CPU; rows in, rows out."""
