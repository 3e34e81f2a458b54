"""The page of `servegym replay`: an episode on a time axis, requests moving through queues and batches."""
