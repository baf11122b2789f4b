"""``python -m mmvheat.doctor``: what of the stack works here, see :mod:`mmvheat.cli.doctor`."""

from mmvheat.cli.command import run_main
from mmvheat.cli.doctor import main

if __name__ == '__main__':
    run_main(main)
