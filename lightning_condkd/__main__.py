"""``python -m lightning_condkd``."""

from lightning_condkd.cli import main

if __name__ == "__main__":
    main()
