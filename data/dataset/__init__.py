"""All admitted batches of a task: cohorts, packed shards, training population. A single batch belongs in data/batch."""
