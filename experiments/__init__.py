"""Experiments: scripts that make runs and lay them out; nothing in paft/ imports them."""
