"""Measure how robust a model is to its prompt's wording: python evaluate.py adapter=RUN/adapter (conf/evaluate.yaml).

The same as `paft evaluate`; Hydra's shell completion looks for its mark, @hydra.main, which stands in paft/cli/evaluate.py.
"""

from paft.cli.evaluate import main

if __name__ == "__main__":
    main()
