"""A run as a page for people, runs side by side, and the machine they are on."""
