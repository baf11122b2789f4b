"""Registries of mmvheat, children of mmengine's.

mmengine imports this module to resolve the prefix of a scoped type such as ``mmvheat.VHeat``, and
then the modules in ``locations``.
"""

from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import Registry

__all__ = [
    'FUNCTIONS',
    'HOOKS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'RUNNERS',
    'STRATEGIES',
]

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
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmvheat',
    locations=['mmvheat.engine'],
)
RUNNERS = Registry(
    'runner', parent=MMENGINE_RUNNERS, scope='mmvheat', locations=['mmvheat.engine.fsdp']
)
STRATEGIES = Registry(
    'strategy', parent=MMENGINE_STRATEGIES, scope='mmvheat', locations=['mmvheat.engine.fsdp']
)
FUNCTIONS = Registry(
    'function', parent=MMENGINE_FUNCTIONS, scope='mmvheat', locations=['mmvheat.engine.fsdp']
)
