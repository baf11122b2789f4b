"""Registries of mmvheat, children of mmengine's.

mmengine imports this module to resolve the prefix of a scoped type such as ``mmvheat.VHeat``, and
then the modules in ``locations``.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

__all__ = ['HOOKS', 'MODELS', 'MODEL_WRAPPERS', 'OPTIM_WRAPPERS']

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmvheat', locations=['mmvheat.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmvheat', locations=['mmvheat.engine'])
MODEL_WRAPPERS = Registry(
    'model_wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope='mmvheat',
    locations=['mmvheat.engine'],
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmvheat',
    locations=['mmvheat.engine'],
)
