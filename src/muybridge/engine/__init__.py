"""One training loop, one evaluation, one format of checkpoint, for every method."""
