"""The workspace folder: git, DVC, locks, backup, relocation."""
