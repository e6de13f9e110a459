"""The record that everything stands on: verdicts, ledger, journal, registry, people."""
