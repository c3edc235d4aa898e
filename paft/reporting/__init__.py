"""The output of a run: results.json, tables, figures, pages and the log in W&B."""
