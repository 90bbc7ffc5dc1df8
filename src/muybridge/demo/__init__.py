"""The demo: a small data set that is drawn on the spot, so that every command can be tried without a download."""
