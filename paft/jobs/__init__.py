"""The work of a command, from config to results: check the inputs, plan, compute, save."""
