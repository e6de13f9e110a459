"""One incoming batch: its table of labels, its scans, its manifest. What is known across batches is in data/dataset."""
