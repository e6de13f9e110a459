"""Who sees and does: the web front for clinicians, engineers and auditors."""
