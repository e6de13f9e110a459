"""Forward uploads to the live release, and copies of them to a shadow."""
