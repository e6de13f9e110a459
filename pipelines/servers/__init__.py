"""The servers of a running workspace: start, health checks, restart. Not what a server answers."""
