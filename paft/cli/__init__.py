"""The command line: paft train | evaluate | compare | report | pools | merge."""
