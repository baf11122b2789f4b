"""The model index lists every config, and claims nothing that only the paper has shown."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmvheat.models import ARCHS, PUBLISHED_CLASSIFIERS

ROOT = Path(__file__).parents[2]
REPORTED = 'reported by the paper, not reproduced with this code'
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())
METAFILES = [yaml.safe_load((ROOT / path).read_text()) for path in INDEX['Import']]
MODELS = {model['Name']: model for metafile in METAFILES for model in metafile['Models']}
LISTED = ('classification', 'detection', 'segmentation')
NUMBERS = ('Top 1 Accuracy', 'box AP', 'mask AP', 'mIoU')

# Millions of parameters, G multiply-adds and the metrics of the published README.
PUBLISHED = {
    'vheat-tiny_16xb128_in1k': (29, 4.6, 82.2),
    'vheat-small_16xb128_in1k': (50, 8.5, 83.6),
    'vheat-base_16xb128_in1k': (87, 14.9, 83.9),
    'mask-rcnn_vheat-t_fpn_1x_coco': (53, 286, 45.1, 41.2),
    'mask-rcnn_vheat-s_fpn_1x_coco': (74, 377, 46.8, 42.3),
    'mask-rcnn_vheat-b_fpn_1x_coco': (115, 526, 47.7, 43.0),
    'mask-rcnn_vheat-t_fpn_ms-3x_coco': (53, 286, 47.3, 42.5),
    'mask-rcnn_vheat-s_fpn_ms-3x_coco': (74, 377, 48.8, 43.7),
    'vheat-t_upernet_8xb2-160k_ade20k-512x512': (62, 948, 47.0),
    'vheat-s_upernet_8xb2-160k_ade20k-512x512': (82, 1028, 49.0),
    'vheat-b_upernet_8xb2-160k_ade20k-512x512': (129, 1219, 49.6),
}


def test_every_config_is_listed_once():
    assert len(MODELS) == sum(len(metafile['Models']) for metafile in METAFILES)
    configs = {
        str(path.relative_to(ROOT))
        for family in LISTED
        for path in (ROOT / 'configs' / family).glob('*.py')
    }
    assert {model['Config'] for model in MODELS.values()} == configs
    assert all(Path(model['Config']).stem == name for name, model in MODELS.items())


def test_one_collection():
    (collection,) = [c for metafile in METAFILES for c in metafile.get('Collections', [])]
    assert collection['Name'] == 'vHeat'
    assert {model['In Collection'] for model in MODELS.values()} == {'vHeat'}
    assert (ROOT / collection['README']).is_file() and (ROOT / collection['Code']['URL']).is_file()


@pytest.mark.parametrize('name', MODELS)
def test_every_figure_is_marked_as_reported(name):
    model = MODELS[name]
    results = model.get('Results', [])
    figures = [figure for result in results for figure in result['Metrics'].values()]
    assert bool(figures) == (name in PUBLISHED)
    if not figures:
        assert not {'Parameters', 'FLOPs'} & set(model['Metadata']) and 'Weights' not in model
        return
    metadata = model['Metadata']
    assert {metadata['Source'], *(result['Source'] for result in results)} == {REPORTED}
    assert all(metric in NUMBERS for result in results for metric in result['Metrics'])
    counts = metadata['Parameters'] / 1e6, metadata['FLOPs'] / 1e9
    assert (*counts, *figures) == PUBLISHED[name]
    # The published README links no checkpoint of UperNet with the small backbone.
    assert ('Weights' in model) == (name != 'vheat-s_upernet_8xb2-160k_ade20k-512x512')


@pytest.mark.parametrize('name', MODELS)
def test_length_and_batch_are_the_configs(name):
    pytest.importorskip('mmcv')
    model = MODELS[name]
    cfg = Config.fromfile(ROOT / model['Config'])
    metadata = model['Metadata']
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    assert metadata['Epochs' if 'max_epochs' in cfg.train_cfg else 'Iterations'] == length
    assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size


def test_the_page_has_every_config_and_every_figure():
    page = (ROOT / 'docs' / 'model_zoo.md').read_text()
    for name in MODELS:
        (row,) = [line for line in page.splitlines() if f'`{name}`' in line and line[0] == '|']
        cells = [cell.strip() for cell in row.split('|')]
        for figure in PUBLISHED.get(name, ()):
            assert str(figure) in ' '.join(cells).replace(' M', '').replace(' G', '').split()


def test_the_table_in_the_package_says_the_same():
    """What is downloaded and cited without the configs at hand."""
    assert set(PUBLISHED_CLASSIFIERS) <= set(ARCHS)
    for arch, published in PUBLISHED_CLASSIFIERS.items():
        model = MODELS[f'vheat-{arch}_16xb128_in1k']
        (result,) = model['Results']
        assert published.url == model['Weights']
        assert published.top1 == result['Metrics']['Top 1 Accuracy']
