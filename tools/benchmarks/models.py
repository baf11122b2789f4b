"""The models that are timed: ours, the published code, and others of the same size from timm."""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from options import OURS, PUBLISHED, STRIDE
from torch import Tensor, nn

from mmvheat.errors import UserError
from mmvheat.models import ARCHS, VHeat, VHeatArch

CLASSES = 1000
# The frequency embeddings of the published detectors are of this size, and resized for each image.
DETECTION_EMBEDDINGS = 512

# Micro is for trying the benchmarks out.
_ARCHS = {
    'micro': VHeatArch(depths=(1, 1, 1, 1), dims=16),
    **{name: ARCHS[name] for name in ('tiny', 'small', 'base')},
}
_TIMM = {'swin': 'swin_{}_patch4_window7_224', 'convnext': 'convnext_{}'}
_TIMM_MICRO = {
    'swin': {'embed_dim': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 2, 2)},
    'convnext': {'depths': (1, 1, 1, 1), 'dims': (16, 32, 64, 128)},
}
_SWIN_PATCH = 4


@dataclass
class Group:
    """Models that are timed together, in one form, and what all of them are given.

    Attributes:
        name: Ratios are within the group of this name.
        what: What messages call it.
        path: ``'classifier'`` or ``'detection'``.
        shape: Shape of the images.
        dtype: The precision that is timed: autocast's, if not float32.
        device: Where they run.
        layout: Memory format of images and models.
        models: The models by name, ``'... compiled'`` among them.
    """

    name: str
    what: str
    path: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    device: torch.device
    layout: torch.memory_format = torch.contiguous_format
    models: dict[str, nn.Module] = field(default_factory=dict)

    @cached_property
    def images(self) -> Tensor:
        """Random images; they are made at the first use, for they may not fit into memory."""
        generator = torch.Generator(self.device).manual_seed(0)
        images = torch.randn(self.shape, generator=generator, device=self.device)
        return images.to(memory_format=self.layout)

    @cached_property
    def one(self) -> Tensor:
        """The first of the images, in memory of its own."""
        return self.images[:1].clone(memory_format=torch.preserve_format)

    @cached_property
    def labels(self) -> Tensor:
        """Random classes of the images."""
        generator = torch.Generator(self.device).manual_seed(1)
        return torch.randint(CLASSES, self.shape[:1], generator=generator, device=self.device)

    def add(self, name: str, build: Callable[[], nn.Module], training: bool) -> None:
        """Build a model where the images are."""
        with self.device:
            model = build().train(training)
        self.models[name] = model.to(self.device, memory_format=self.layout)

    def infer(self, name: str, images: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Run a model for inference, in the precision that is timed or in another."""
        with torch.no_grad(), self._autocast(dtype):
            return as_tensors(self.models[name](images))

    def loss(self, name: str, images: int | None = None, dtype: torch.dtype | None = None):
        """Cross entropy of logits; mean square of maps, as the heads of detectors are not timed.

        Args:
            name: The model.
            images: How many of the images; None for all.
            dtype: The precision; None for the one that is timed.
        """
        with self._autocast(dtype):
            outputs = as_tensors(self.models[name](self.images[:images]))
            if self.path == 'classifier':
                return F.cross_entropy(outputs[0], self.labels[:images])
        return sum(one.float().square().mean() for one in outputs)

    def gradients(
        self,
        name: str,
        parameters: Sequence[str] = (),
        images: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> list[Tensor]:
        """Gradients of the named parameters in their order, or of all; see :meth:`loss`."""
        known = dict(self.models[name].named_parameters())
        wanted = [known[one] for one in parameters or known]
        return list(torch.autograd.grad(self.loss(name, images, dtype), wanted))

    def _autocast(self, dtype: torch.dtype | None) -> torch.autocast:
        dtype = dtype or self.dtype
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)


class Classifier(nn.Module):
    """vHeat with a mean over the last map and a linear layer.

    Args:
        arch: Architecture.
        image_size: Height and width that the frequency embeddings are made for.
    """

    def __init__(self, arch: VHeatArch, image_size: tuple[int, int]) -> None:
        super().__init__()
        last = len(arch.depths) - 1
        # Without stochastic depth: it is random, and as cheap in each of the models.
        self.trunk = VHeat(arch, img_size=image_size, out_indices=last, drop_path_rate=0.0)
        self.fc = nn.Linear(arch.dims[-1], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, 1000)."""
        return self.fc(self.trunk(images)[0].mean((2, 3)))


class PublishedFeatures(nn.Module):
    """The published layers, run so that they give the maps of all stages, as detectors need them.

    The published class for that needs mmdet; this one calls the same modules in the same order.

    Args:
        published: A published classifier in its training form.
        dims: Channels of the stages.
    """

    def __init__(self, published: nn.Module, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.published = published
        self.published.classifier = nn.Identity()
        self.outnorms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to the maps of all stages."""
        x = self.published.patch_embed(images)
        maps = []
        for stage, embed, norm in zip(
            self.published.layers, self.published.freq_embed, self.outnorms, strict=True
        ):
            if x.shape[2:] != embed.shape[:2]:
                embed = embed.permute(2, 0, 1)[None]
                embed = F.interpolate(embed, size=tuple(x.shape[2:]), mode='bicubic')
                embed = embed[0].permute(1, 2, 0).contiguous()
            *blocks, downsample = stage
            for block in blocks:
                x = block(x, embed)
            maps.append(norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous())
            x = downsample(x)
        return tuple(maps)


def as_tensors(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Logits or maps, always as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def groups_of(models: Sequence[str], with_published: bool) -> dict[str, list[str]]:
    """Sort models by their size; the published code goes with every vHeat.

    Raises:
        UserError: If the published code has nothing to go with.
    """
    groups: dict[str, list[str]] = {}
    for model in dict.fromkeys(models):
        family, _, scale = model.partition('-')
        groups.setdefault(scale, []).append(family)
        if with_published and family == OURS:
            groups[scale].append(PUBLISHED)
    if with_published and not any(PUBLISHED in families for families in groups.values()):
        raise UserError('--published is compared with vHeat: give a vheat model too')
    return groups


def timm_is_there() -> bool:
    """Whether timm is installed."""
    return importlib.util.find_spec('timm') is not None


def check_timm(models: Sequence[str]) -> None:
    """Refuse the models of timm where it is not installed.

    Raises:
        UserError: If it is missing.
    """
    for model in models:
        if model.partition('-')[0] in _TIMM and not timm_is_there():
            raise UserError(f'{model} needs timm: pip install timm, or leave it out of --models')


def build_model(
    family: str,
    scale: str,
    image_size: tuple[int, int],
    path: str = 'classifier',
    window: int | None = None,
) -> nn.Module:
    """Build one of our models or timm's, with random weights from a fixed seed.

    Args:
        family: ``'vheat'``, ``'swin'`` or ``'convnext'``.
        scale: Size of the model.
        image_size: Height and width of the images.
        path: ``'classifier'`` or ``'detection'``.
        window: Side of Swin's windows, if not 7.
    """
    torch.manual_seed(0)
    if family != OURS:
        return _build_timm(family, scale, image_size, path, window)
    arch = _ARCHS[scale]
    if path == 'classifier':
        model = Classifier(arch, image_size)
    else:
        model = VHeat(arch, img_size=DETECTION_EMBEDDINGS, drop_path_rate=0.0)
    _make_all_parts_count(model)
    return model


def load_published(root: Path) -> ModuleType:
    """Load the model's module of a clone of the published repository.

    Raises:
        UserError: If it is not there, or needs what is not installed.
    """
    file = root / 'classification' / 'models' / 'vHeat.py'
    if not file.is_file():
        raise UserError(
            f'--published {root}: no classification/models/vHeat.py there; give a clone of the '
            'published repository'
        )
    spec = importlib.util.spec_from_file_location('published_vheat', file)
    module = importlib.util.module_from_spec(spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            spec.loader.exec_module(module)
    except ImportError as error:
        missing = f'pip install {error.name}' if error.name else str(error)
        raise UserError(f'the published code cannot be imported: {missing}') from error
    if not hasattr(module, 'vHeat'):
        raise UserError(f'--published {root}: its vHeat.py has no class vHeat')
    return module


def build_published(
    module: ModuleType, scale: str, image_size: tuple[int, int], path: str, training: bool
) -> nn.Module:
    """Build the published model with the arch and the weights of ours.

    Args:
        module: What :func:`load_published` gave.
        scale: Size of the model.
        image_size: Height and width of the images.
        path: ``'classifier'`` or ``'detection'``.
        training: Leave it in its training form; for inference its classifier has another.

    Raises:
        UserError: If it cannot take images of this size.
    """
    arch = _ARCHS[scale]
    # Its inference form is for one image size only, so its detection code has none.
    folded = path == 'classifier' and not training
    if path == 'classifier' and (image_size[0] != image_size[1] or image_size[0] % STRIDE):
        raise UserError(
            f'the published classifier takes square images of a multiple of {STRIDE}, got '
            f'{image_size[0]} x {image_size[1]}: use another --size or --path detection'
        )
    model = module.vHeat(
        depths=list(arch.depths),
        dims=list(arch.dims),
        num_classes=CLASSES,
        drop_path_rate=0.0,
        post_norm=arch.post_norm,
        layer_scale=arch.layer_scale_init_value,
        mlp_ratio=arch.mlp_ratio,
        img_size=image_size[0] if path == 'classifier' else DETECTION_EMBEDDINGS,
        infer_mode=folded,
    )
    if path == 'detection':
        model = PublishedFeatures(model, arch.dims)
    weights = build_model(OURS, scale, image_size, path).state_dict()
    model.load_state_dict({published_name(name, path): one for name, one in weights.items()})
    if folded:
        with torch.no_grad():
            model.infer_init()
    return model


def published_name(name: str, path: str) -> str:
    """Name that one of our parameters has in the published model."""
    if path == 'detection':
        if name.startswith('outnorm'):
            return name.replace('outnorm', 'outnorms.')
        return f'published.{name}'
    part, _, rest = name.partition('.')
    if part == 'fc':
        return f'classifier.3.{rest}'
    if rest.startswith('outnorm'):  # of the last map, the only one
        return f'classifier.0.{rest.partition(".")[2]}'
    return rest


def _build_timm(
    family: str, scale: str, image_size: tuple[int, int], path: str, window: int | None
) -> nn.Module:
    """Build a model of timm's without pretrained weights."""
    import timm

    settings: dict = {'drop_path_rate': 0.0}
    settings |= {'features_only': True} if path == 'detection' else {'num_classes': CLASSES}
    if scale == 'micro':
        settings |= _TIMM_MICRO[family]
    if family == 'swin':
        settings['img_size'] = tuple(side + -side % _SWIN_PATCH for side in image_size)
        if window is not None:
            settings['window_size'] = window
    name = _TIMM[family].format('tiny' if scale == 'micro' else scale)
    model = timm.create_model(name, pretrained=False, **settings)
    if family == 'swin':
        model.register_forward_pre_hook(_pad_to_patches)
    return model


def _pad_to_patches(module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
    """Swin takes whole patches alone: a hook that pads its images."""
    height, width = inputs[0].shape[2:]
    if height % _SWIN_PATCH or width % _SWIN_PATCH:
        return F.pad(inputs[0], (0, -width % _SWIN_PATCH, 0, -height % _SWIN_PATCH))
    return None


@torch.no_grad()
def _make_all_parts_count(model: nn.Module) -> None:
    """Give the weights of vHeat a size at which every part shows in the output.

    At the start of training, layer scales of 1e-5 and diffusivities of almost 0 would hide a wrong
    operator from the comparison. The time that a model takes does not depend on it.
    """
    for name, parameter in model.named_parameters():
        if 'gamma' in name:
            parameter.fill_(0.5)
        elif 'freq_embed' in name:
            nn.init.trunc_normal_(parameter, std=0.5)
        elif 'out_linear.weight' in name:
            parameter.mul_(4)
