"""Our own engine as a child process. Knows its command line, its output and its /health."""
