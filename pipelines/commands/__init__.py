"""What people type: one file for each group of commands."""
