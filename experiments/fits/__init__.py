"""Makes the committed figures: fits and compiled tables."""
