"""What a policy at work tells of itself: metrics and the log of decisions."""
