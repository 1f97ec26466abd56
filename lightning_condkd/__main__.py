"""Entry point of ``lightning-condkd`` and ``python -m lightning_condkd``; short answers come without torch."""

from __future__ import annotations

import sys
from importlib.metadata import version

HELP = """\
usage: lightning-condkd COMMAND ... (each has its own --help)

Distil a classifier when its training data is gone.

commands of a run, which take --config FILE and --model, --data and --trainer:
  fit        train: a student, a classifier, a condensed set, or experts, as the model says
  validate   measure the held-out accuracy of a checkpoint during development
  test       measure the held-out accuracy of a checkpoint
  predict    write the class of each image to a file

more commands:
  convert    convert a condensed set to the native or other formats
  describe   print classes, sizes, mean and std of images, or the facts of a set
  draw       make pictures of finished runs
  evaluate   train fresh networks on a condensed set and report their accuracy
  export     write the student of a run as weights, ONNX, or a program
  methods    list the inversion methods with their needs and costs
  select     choose real images in place of a condensed set

options:
  -h, --help   show this text
  --version    show the version
"""


def run() -> None:
    """Run the command line of this process.

    Raises:
        SystemExit: with the return code, if it is not 0.
    """
    match sys.argv[1:]:
        case ["--version"]:
            print(f"lightning-condkd {version('lightning-condkd')}")
        case ["--help" | "-h"]:
            print(HELP, end="")
        case given:
            from lightning_condkd.entry import run_command

            run_command(given)


if __name__ == "__main__":
    run()
