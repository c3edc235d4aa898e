"""Rows to examples, renderings to tokens, and the LightningDataModule. Imports prompts, not models."""
