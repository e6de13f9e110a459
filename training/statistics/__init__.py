"""Statistics over patients: the clustered bootstrap and DeLong's test."""
