"""A bundle in figures: measured here, told as tables, pictures and one page. `table` and `page` know no bundle."""
