"""What is minimised: losses, penalties, and their weighted mean over rows."""
