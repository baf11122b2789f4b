"""Imported once by the process that runs are forked from, for its time alone."""

import mmdet.datasets
import mmdet.evaluation
import mmdet.models
import mmpretrain.datasets
import mmpretrain.evaluation
import mmpretrain.models
import mmseg.datasets
import mmseg.evaluation
import mmseg.models  # noqa: F401
