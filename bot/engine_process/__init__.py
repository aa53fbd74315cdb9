"""The engine as a child process: started, watched, restarted, stopped."""
