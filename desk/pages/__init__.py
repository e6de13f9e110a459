"""The pages of the desk, one file per page or group of pages."""
