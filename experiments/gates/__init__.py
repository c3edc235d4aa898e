"""Gates before any learnt sampler."""
