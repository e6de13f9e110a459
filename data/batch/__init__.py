"""One incoming batch: metadata table, scans, manifest. What spans several batches belongs in data/dataset."""
