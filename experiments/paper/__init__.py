"""The paper's tables and figures from finished runs: python -m experiments.paper RUNS... --out DIR."""
