"""What a model takes: time against the bare backbone, memory, share of what the machine can do."""
