"""What every command rests on: errors, files, run folders, and one process per device."""
