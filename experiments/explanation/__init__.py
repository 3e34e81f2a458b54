"""What a trained policy looks at, whom it agrees with, and what it does when it is busy."""
