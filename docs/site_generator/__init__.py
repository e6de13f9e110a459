"""The generator of the documentation site: reference pages from the code, hooks for MkDocs, screenshots."""
