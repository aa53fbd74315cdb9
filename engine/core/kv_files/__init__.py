"""When the KV cache is written to files and read back after a restart, on all ranks. It decides no format of a file."""
