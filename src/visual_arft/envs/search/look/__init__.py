"""Looking at a page in a real browser that has no other way out than the filtering proxy."""
