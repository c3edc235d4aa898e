"""The command line: paft train | evaluate | compare | report | power | pools | merge."""
