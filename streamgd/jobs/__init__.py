"""The scheduled job: what is new is learned, judged and published, and an interrupted night is made up for."""
