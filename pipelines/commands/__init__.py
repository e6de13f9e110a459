"""The commands of `oncoloop`: one file for each group of commands. Not the work itself."""
