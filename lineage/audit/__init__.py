"""For auditors: the chain behind a prediction, and the evidence of a release."""
