"""``python -m mmvheat.checkpoint inspect|convert``, see :mod:`mmvheat.cli.checkpoint`."""

from mmvheat.cli.checkpoint import main
from mmvheat.cli.command import run_main

if __name__ == '__main__':
    run_main(main)
