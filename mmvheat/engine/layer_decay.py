"""Layer-wise learning-rate decay: the closer to the image, the smaller the learning rate."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmvheat.checkpoint.names import unwrapped_name
from mmvheat.errors import UserError
from mmvheat.registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['LayerDecayOptimWrapperConstructor']

_INHERITED = (
    'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult',
    'dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate',
)  # fmt: skip


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
@MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiplies the learning rate of layer i of n by ``layer_decay_rate ** (n - 1 - i)``.

    The backbone counts its layers, by ``get_layer_depth`` as mmpretrain's backbones have it: for
    vHeat the stem is layer 0, each block is one more, and the output norms, like necks and heads,
    are layer n - 1, whose learning rate is the optimizer's. It works alike for classifiers,
    detectors and segmentors, bare or in a distributed wrapper.

    ``paramwise_cfg`` holds ``layer_decay_rate`` and what mmengine's default constructor knows
    (``norm_decay_mult``, ``flat_decay_mult``, ``custom_keys``, ...); ``lr_mult`` and
    ``bias_lr_mult`` multiply with the decay. Parameters with equal settings share a group.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: Parameter-wise options.

    Raises:
        UserError: If an option is unknown or out of range, or if no backbone
            counts its layers.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='mmvheat.LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0),
        ... )
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        unknown = sorted(set(self.paramwise_cfg) - {'layer_decay_rate', *_INHERITED})
        if unknown:
            raise UserError(
                f'paramwise_cfg has unknown {", ".join(unknown)}: layer-wise decay takes '
                f'layer_decay_rate, {", ".join(_INHERITED)}'
            )
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= 1:
            raise UserError(
                f'paramwise_cfg.layer_decay_rate is a number in (0, 1], 1 for no decay, '
                f'got {rate!r}'
            )
        if self.base_lr is None:
            raise UserError('layer-wise decay needs a learning rate: set optimizer.lr')

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the parameters of a model to the groups; mmengine's arguments."""
        if prefix:  # mmengine's way down the modules
            super().add_params(params, module, prefix, is_dcn_module)
            return
        find_depth = _depth_finder(module)
        names = {parameter: unwrapped_name(name) for name, parameter in module.named_parameters()}
        single: list[dict] = []
        with _without_a_line_for_every_parameter():
            super().add_params(single, module)
        merged: dict[str, dict] = {}
        layers: dict[int, list] = {}
        for group in single:
            (parameter,) = group.pop('params')
            layer, number = find_depth(names[parameter])
            scale = self.paramwise_cfg['layer_decay_rate'] ** (number - 1 - layer)
            group.update(lr=group.get('lr', self.base_lr) * scale, lr_scale=scale)
            same = merged.setdefault(repr(sorted(group.items())), dict(group, params=[]))
            same['params'].append(parameter)
            layers.setdefault(layer, [scale, 0])[1] += 1
        params.extend(merged.values())
        print_log(self._table(layers, len(names) - len(single)), 'current')

    def _table(self, layers: dict[int, list], left_out: int) -> str:
        """One line a layer, for the log."""
        lines = [
            f'Layer-wise learning rates, decay {self.paramwise_cfg["layer_decay_rate"]}, '
            f'{left_out} frozen parameters left out:',
            f'{"layer":>5}  {"scale":>9}  {"lr":>9}  parameters',
        ]
        for layer, (scale, count) in sorted(layers.items()):
            lines.append(f'{layer:>5}  {scale:9.3g}  {self.base_lr * scale:9.3g}  {count:>10}')
        return '\n'.join(lines)


def _depth_finder(model: nn.Module) -> Callable[[str], tuple[int, int]]:
    """Find what counts the layers of a model: its backbone, or the model if it is one."""
    backbones = {
        unwrapped_name(name): child
        for name, child in model.named_modules()
        if name.rpartition('.')[2] == 'backbone'
    }
    counting = {
        f'{name}.': child for name, child in backbones.items() if hasattr(child, 'get_layer_depth')
    }
    if not counting and not backbones and hasattr(model, 'get_layer_depth'):
        return model.get_layer_depth
    if not counting:
        found = ', '.join(type(child).__name__ for child in backbones.values()) or 'none'
        raise UserError(
            'layer-wise decay needs a backbone with get_layer_depth, as mmvheat.VHeat has it; '
            f'{type(model).__name__} has {found}'
        )

    def find_depth(name: str) -> tuple[int, int]:
        prefix = next((prefix for prefix in counting if name.startswith(prefix)), None)
        if prefix is None:
            prefix = next(iter(counting))
        return counting[prefix].get_layer_depth(name, prefix)

    return find_depth


@contextmanager
def _without_a_line_for_every_parameter() -> Iterator[None]:
    """Silence what mmengine's constructor logs: the table says it."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
