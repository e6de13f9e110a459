"""De-identification: removal of identity from headers, pixels and table rows."""
