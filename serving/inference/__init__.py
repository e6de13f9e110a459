"""From the bytes of a scan to an answer: the same code for endpoint, command line, replay and evaluation."""
