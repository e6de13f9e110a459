"""The servers of a running workspace: started, watched, restarted."""
