"""The record: ledger, journal, accounts, keys, model registry and lineage queries. It imports no other package."""
