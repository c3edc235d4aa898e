"""What a process does beside the work: run folders and files, several ranks, quiet libraries."""
