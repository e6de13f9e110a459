"""The database: append-only ledger and journal, verdicts, outbox, migrations."""
