"""All compiled loops, one room: nothing else imports numba."""
