"""The test of the kind of picture: fitted on the slices of a task and on generated pictures."""
