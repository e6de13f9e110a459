"""Sign-in at the desk, and in whose name a request goes on."""
