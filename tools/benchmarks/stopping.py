"""A time limit ends the measuring, not the report of what was measured before it."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ['until_stopped']


class _Stopped(BaseException):
    """SIGTERM came. No ``Exception``: a candidate's failure is caught, this one is not."""


@contextmanager
def until_stopped() -> Iterator[None]:
    """Leave the block on SIGTERM, which is what timeout(1) sends, and go on behind it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Stopped:
        sys.stderr.write('stopped: only what was measured before is reported\n')
    finally:
        signal.signal(signal.SIGTERM, before)
