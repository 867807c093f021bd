"""Flights over maps that training never saw -> from where on a match and a fix are believed, each by a stated bound."""
