"""Withdrawal of a patient: locate, erase, and verify the erasure."""
