"""Configs: their types, composing them from conf/, and the metadata of an adapter."""
