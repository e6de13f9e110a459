"""All admitted batches of a task: cohorts, packed shards, the training population."""
