"""Sign-in at the desk, and the credentials of forwarded requests."""
