"""python -m paft: the same as the command paft."""

from paft.cli.main import main

if __name__ == "__main__":
    main()
