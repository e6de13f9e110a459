"""From the bytes of a scan to an answer: the one path for endpoint, command line, replay and evaluation."""
