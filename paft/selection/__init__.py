"""Choosing one training prompt before training: the paper's single-prompt baselines.

Every search scores training prompts on validation examples with the base model, within the same budget of renderings.
"""
