"""Imported once by the process that runs are forked from, for its time alone."""

import mmseg.datasets
import mmseg.evaluation
import mmseg.models  # noqa: F401
