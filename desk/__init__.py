"""The web front and gateway for clinicians, engineers and auditors: accounts, pages, traffic."""
