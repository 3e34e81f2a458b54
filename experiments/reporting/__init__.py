"""The pages of `servegym report`: what runs found, in tables and figures, for readers who were not there."""
