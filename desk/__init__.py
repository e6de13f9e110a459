"""The web front for clinicians, engineers and auditors."""
