"""Published weights: one importer for each program that trained them."""
