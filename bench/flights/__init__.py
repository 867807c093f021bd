"""Flights over known maps, flown as by `dphr-infer flight` and held against the truth."""
