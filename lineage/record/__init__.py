"""The database of the record: append-only ledger and journal, verdicts, outbox, migrations."""
