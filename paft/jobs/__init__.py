"""What a command does from config to results: check, plan, compute, save."""
