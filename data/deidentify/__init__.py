"""What must not leave a hospital: removal of identity from headers, pixels and table rows."""
