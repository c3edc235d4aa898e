"""The LoRA-adapted causal LM: loading, padding-free attention, saving, merging, memory. Imports neither prompts nor data."""
