"""The loops that train, what watches them, and what is written down so that they can go on."""
