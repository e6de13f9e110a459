"""The record: ledger, journal, accounts, keys, lineage queries. It imports no other package."""
