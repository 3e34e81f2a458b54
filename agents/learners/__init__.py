"""Learning algorithms from Stable-Baselines3, configured for routing."""
