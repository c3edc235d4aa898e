"""Configs: their types, how they are composed from conf/, and what an adapter keeps of its own."""
