"""Benchmarks of speed, memory and statistics, each with its page under experiments/results."""
