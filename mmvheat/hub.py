"""vHeat on the Hugging Face Hub: ``from_pretrained``, ``save_pretrained``, ``push_to_hub``.

Needs the extra ``hub``. Nothing that a repository or folder carries is run.
"""

import os
from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import torch

from mmvheat.checkpoint import write_checkpoint
from mmvheat.errors import UserError
from mmvheat.models import PUBLISHED_CLASSIFIERS, VHeatClassifier
from mmvheat.models.counting import count_model

try:
    from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, HFValidationError
except ImportError as error:
    raise ImportError(
        'mmvheat.hub needs huggingface_hub: install the extra `hub` of mmvheat '
        "(pip install '.[hub]' in its clone)"
    ) from error

__all__ = ['VHeatModel']

_WEIGHTS = 'model.safetensors'
# What older tools save; the safe reader takes it.
_PICKLED_WEIGHTS = 'pytorch_model.bin'
# What the mixin hands on for the download; which of them there are depends on its version.
_DOWNLOAD_OPTIONS = (
    'cache_dir',
    'force_download',
    'local_files_only',
    'proxies',
    'resume_download',
    'revision',
    'token',
)

_CARD = """\
---
{{ card_data }}
---

# {{ name }}

{{ what }} [vHeat](https://arxiv.org/abs/2405.16555) is a vision backbone built on heat conduction. This model is of
mmvheat's implementation.

{{ weights | default("The origin of these weights is not recorded: say here what they were trained on.", true) }}

## Use

Install mmvheat with its extra `hub`: `pip install '.[hub]'` in its clone.

```python
import torch
from mmvheat.hub import VHeatModel

model = VHeatModel.from_pretrained('{{ repo_id | default("folder or name of this repository", true) }}')
images = torch.rand(1, {{ in_channels }}, {{ height }}, {{ width }})  # prepared as in training; any size will do
{{ "logits" if num_classes else "features" }} = model(images)  # (1, {{ num_classes or dim }})
```

## Figures

| | | |
| --- | --- | --- |
| parameters | {{ parameters }} M | counted by mmvheat on this model, in the training form |
| FLOPs at {{ height }} x {{ width }} | {{ flops }} G | the same; a multiply-add is one |
{% if top1 %}| top-1 on ImageNet-1K | {{ top1 }} % | **reported by the paper, not reproduced with this code** |
{% endif %}
No accuracy of the weights in this repository is recorded here.
{%- if top1 %} The reported one is of the published weights for this architecture.
{%- endif %}

## Licence

The code of mmvheat is under Apache-2.0. That says nothing of the weights: the files published by the authors of the paper
name no licence. If the weights are yours, name theirs here, and as `license` at the top.

## Citation

```bibtex
@inproceedings{wang2025vheat,
  title     = {Building Vision Models upon Heat Conduction},
  author    = {Wang, Zhaozhi and Liu, Yue and Tian, Yunjie and Liu, Yunfan and Wang, Yaowei and Ye, Qixiang},
  booktitle = {CVPR},
  year      = {2025}
}
```
"""  # noqa: E501


class VHeatModel(
    VHeatClassifier,
    PyTorchModelHubMixin,
    library_name='mmvheat',
    pipeline_tag='image-classification',
    tags=['vheat'],
    model_card_template=_CARD,
):
    """A :class:`mmvheat.models.VHeatClassifier` that is saved to folders and the Hub.

    A folder holds ``model.safetensors`` (``backbone.*``, ``head.fc.*``), ``config.json`` (the
    arguments of the class) and the model card ``README.md``. ``push_to_hub`` is the mixin's.
    :meth:`from_checkpoint` makes the model of a published or converted file.
    """

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, **options: Any
    ) -> 'VHeatModel':
        """Load a model from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: Folder that :meth:`save_pretrained` wrote, or the name of
                a repository on the Hub.
            **options: Arguments of the class in place of those in ``config.json``: ``img_size``
                fits the frequency embeddings, ``num_classes=0`` leaves the classifier behind.
                ``ignore_mismatched_sizes=True`` starts the classifier anew where ``num_classes``
                differs. ``map_location`` is the model's device. ``revision``, ``token``,
                ``cache_dir``, ``force_download`` and ``local_files_only`` are the Hub's.

        Returns:
            The model, in eval mode.

        Raises:
            UserError: If there is no such folder or repository, a file is missing, damaged or
                unsafe, or weights and arguments do not fit.
        """
        name = str(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(name, **options)
        except (OSError, JSONDecodeError, UnicodeDecodeError, HFValidationError) as error:
            reason = (str(error) or type(error).__name__).strip().partition('\n')[0]
            if os.path.isdir(name):
                raise UserError(f'{name}: config.json cannot be read ({reason})') from error
            raise UserError(
                f'{name} is no local folder, and cannot be had from the Hub ({reason}): check the '
                'name and the network'
            ) from error

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        config: Mapping[str, Any] | None = None,
        map_location: str | torch.device = 'cpu',
        ignore_mismatched_sizes: bool = False,
        **options: Any,
    ) -> 'VHeatModel':
        """Build the model and load its weights, all of them, by the safe reader; the mixin's hook.

        Args:
            model_id: Folder or name of a repository.
            config: Content of ``config.json``; None if there is none.
            map_location: See :meth:`from_pretrained`.
            ignore_mismatched_sizes: See :meth:`from_pretrained`.
            **options: Options of the download, and the arguments of the class.
        """
        download = {name: options.pop(name) for name in _DOWNLOAD_OPTIONS if name in options}
        file = _find_weights(model_id, download)
        if not isinstance(config, Mapping) or 'arch' not in config:
            raise UserError(
                f'{model_id} has no config.json of a VHeatModel: name a folder that '
                'save_pretrained wrote, or load the weights alone by '
                f'VHeatModel.from_checkpoint({str(file)!r})'
            )
        same_names = options.get('classes') == config.get('classes')
        if same_names and options.get('num_classes') != config.get('num_classes'):
            options['classes'] = None  # They are those of the classifier that is left behind.
        model = cls(**options)
        model.load_file(file, ignore_mismatched_sizes=ignore_mismatched_sizes)
        return model.to(map_location).eval()

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> str | None:
        """Write the model to a folder, and push it to the Hub if asked to.

        Args:
            save_directory: The folder. A ``README.md`` that is in it stays.
            **options: Those of huggingface_hub's ``PyTorchModelHubMixin.save_pretrained``: with
                ``push_to_hub=True`` and ``repo_id`` the model goes to the Hub as well;
                ``model_card_kwargs=dict(weights=..., repo_id=...)`` fills in the card.

        Returns:
            Address of the commit on the Hub; None if the model was not pushed.

        Raises:
            UserError: If the backbone is folded for inference, or the weights cannot be written.
        """
        if self.backbone.folded_for is not None:
            raise UserError(
                'the backbone is folded for inference, for one image size: save the model before '
                'it is folded, and fold what is loaded'
            )
        options['config'] = options.get('config') or self.arguments()
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights, whole or not at all; the mixin's hook."""
        write_checkpoint(save_directory / _WEIGHTS, self.state_dict(), {}, force=True)

    def generate_model_card(self, *args: Any, **options: Any) -> ModelCard:
        """Make the model card, with figures that say where they come from.

        Args:
            *args: Not used, the mixin's interface.
            **options: Variables of the template: ``weights`` says what the weights are,
                ``repo_id`` is the name of the repository.
        """
        arguments = self.arguments()
        with torch.device('meta'):
            model = VHeatClassifier(**arguments)
        height, width = self.backbone.img_size
        count = count_model(model, (height, width))
        arch, classes = arguments['arch'], self.num_classes
        named = arch if isinstance(arch, str) else 'custom'
        is_published = (classes, self.in_channels) == (1000, 3) and named in PUBLISHED_CLASSIFIERS
        facts = dict(
            name=f'vHeat, {named}',
            what=f'A classifier for {classes} classes.' if classes else 'A backbone.',
            num_classes=classes,
            dim=self.backbone.out_channels[0],
            in_channels=self.in_channels,
            height=height,
            width=width,
            parameters=f'{count.parameters / 1e6:.4g}',
            flops=f'{count.flops / 1e9:.4g}',
            top1=PUBLISHED_CLASSIFIERS[named].top1 if is_published else None,
        )
        card = super().generate_model_card(*args, **(facts | options))
        if not classes:
            card.data.pipeline_tag = 'image-feature-extraction'
        return card


def _find_weights(model_id: str, download: Mapping[str, Any]) -> Path:
    """Find the weights of a folder or repository, those that are safe by themselves first.

    Raises:
        UserError: If a folder has none.
    """
    names = (_WEIGHTS, _PICKLED_WEIGHTS)
    if os.path.isdir(model_id):
        files = [path for path in (Path(model_id, name) for name in names) if path.is_file()]
        if not files:
            raise UserError(
                f'{model_id} has neither {" nor ".join(names)}: name a folder that save_pretrained '
                'wrote'
            )
        return files[0]
    try:
        return Path(hf_hub_download(model_id, _WEIGHTS, **download))
    except EntryNotFoundError:
        return Path(hf_hub_download(model_id, _PICKLED_WEIGHTS, **download))
