"""Fine-tune a model and say how robust it came out: python train.py (conf/train.yaml is the page to edit).

The same as `paft train`; Hydra's shell completion looks for its mark, @hydra.main, which stands in paft/cli/train.py.
"""

from paft.cli.train import main

if __name__ == "__main__":
    main()
