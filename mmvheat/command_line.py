"""What all command lines of the project share."""

import argparse
from typing import NoReturn

__all__ = ['OneLineParser']


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake on the command line in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit."""
        self.exit(2, f'error: {message} (--help lists the arguments)\n')
