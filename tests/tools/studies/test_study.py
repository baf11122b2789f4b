"""The study: a tiny grid is stopped and gone on with; its splits, its peers, its numbers."""

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import load_script
from rich.console import Console
from studies.driver import Study
from studies.grid import ARMS, STUDIES, Arm, Start, backbones, find_arm
from studies.records import Job, Records, digest_of, jobs_of
from studies.report import compare, summary, write_report

from mmvheat.cli.command import run_command
from mmvheat.errors import UserError

ROOT = Path(__file__).parents[3]
FASHION = find_arm(ARMS, 'ablation/predicted')
RATES = ({'optim_wrapper.optimizer.lr': 1e-3}, {'optim_wrapper.optimizer.lr': 1e-2})


def test_every_arm_is_named_once_and_finds_what_it_refers_to():
    assert len({arm.path for arm in ARMS}) == len(ARMS)
    assert {arm.study for arm in ARMS} == set(STUDIES)
    for arm in ARMS:
        assert (ROOT / arm.config).is_file() and arm.metrics
        if arm.like is not None:
            searched = find_arm(ARMS, arm.like)
            assert searched.like is None and len(searched.candidates) == len(arm.candidates)
        if arm.start is not None:
            assert arm.start.arm in ARMS and arm.start.arm.iterations > 0
        searches = jobs_of(arm, 3)[:-3]
        assert bool(searches) == (len(arm.candidates) > 1 and arm.like is None)
        assert not searches or (arm.search_iterations and all(arm.holdout))


def test_peers_have_the_parameters_and_the_arithmetic_of_vheat():
    pytest.importorskip('mmpretrain')
    from studies.costs import build_models, count_costs

    names = ['predicted', 'swin', 'convnext', 'depthwise-cnn']
    assert set(names) < set(backbones())
    models = build_models(str(ROOT / FASHION.config), names)
    with torch.inference_mode():
        for model in models.values():
            assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    costs = {name: count_costs(model, 32) for name, model in models.items()}
    for name in names[1:]:
        for figure in ('parameters', 'flops'):
            assert costs[name][figure] == pytest.approx(costs['predicted'][figure], rel=0.06)


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim])
    return header + b''.join(n.to_bytes(4, 'big') for n in values.shape) + values.tobytes()


@pytest.fixture(scope='module')
def clothes(tmp_path_factory):
    """A Fashion-MNIST of 40 and 12 images."""
    folder, rng = tmp_path_factory.mktemp('clothes'), np.random.default_rng(0)
    for name, count in (('train', 40), ('t10k', 12)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f'{name}-images-idx3-ubyte').write_bytes(idx(images))
        (folder / f'{name}-labels-idx1-ubyte').write_bytes(idx(labels))
    return folder


@pytest.fixture
def tiny_arms(clothes):
    """Two arms: one with a search of two, and one that starts with what it ends with."""
    settings = {
        'model.backbone.arch': dict(_delete_=True, depths=[1, 1], dims=8),
        'model.backbone.out_indices': (1,),
        'model.head.in_channels': 16,
        'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.data_root': str(clothes),
        'test_dataloader.dataset.data_root': str(clothes),
    }
    first = replace(
        FASHION,
        iterations=2,
        settings=settings,
        candidates=(*RATES, {'optim_wrapper.optimizer.lr': 1e30}),
        search_iterations=2,
        holdout=(24, 16),
    )
    larger = settings | {
        'model.backbone.img_size': 48,
        'test_dataloader.dataset.pipeline': [
            dict(type='Resize', scale=48),
            dict(type='PackInputs'),
        ],
    }
    second = Arm(
        'transfer',
        'enlarged',
        FASHION.config,
        iterations=0,
        metrics=FASHION.metrics,
        settings=larger,
        start=Start(first, 32, 48, 'mean', 'classification'),
    )
    return first, second


def make_study(arms, tmp_path, only=None, seeds=1):
    console = Console(file=io.StringIO(), width=200)
    records = Records(tmp_path / 'results')
    return Study(arms, records, tmp_path / 'work', ROOT, seeds, only, console)


def test_a_run_is_another_one_after_another_pretraining(tiny_arms):
    _, second = tiny_arms
    longer = replace(second.start.arm, iterations=second.start.arm.iterations + 1)
    slower = replace(second.start.arm, seconds=9.0)
    first, same, other = (
        Job(replace(second, start=replace(second.start, arm=arm)), 0).fingerprint
        for arm in (second.start.arm, slower, longer)
    )
    assert first == same != other


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_grid_is_stopped_and_gone_on_with(tiny_arms, tmp_path, monkeypatch):
    """What was finished is not run again, what was stopped is, and what is lost and needed too."""
    pytest.importorskip('mmpretrain')
    study = make_study(tiny_arms, tmp_path)
    finish = Study._finish

    def finish_and_stop(self, *args):
        finish(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, '_finish', finish_and_stop)
    with pytest.raises(KeyboardInterrupt):
        study.run(10)
    monkeypatch.undo()
    assert not study.failed
    done = json.loads((tmp_path / 'results' / 'ablation.json').read_text())['runs']
    (key,) = done
    log = tmp_path / 'work' / 'ablation' / key / 'log.txt'
    before = log.read_text()

    study = make_study(tiny_arms, tmp_path)
    assert len(study.left()) == 4
    assert study.run(10) and not study.failed and not study.left()
    assert log.read_text() == before
    records = Records(tmp_path / 'results')
    first, second = tiny_arms
    runs = records.study('ablation')['runs']
    assert set(runs) == {f'predicted/{kind}' for kind in ('search0', 'search1', 'search2', 'seed0')}
    assert runs[key] == done[key]
    # A training that comes to nothing is told, and not chosen.
    assert runs['predicted/search2']['metrics'] == {}
    assert 'training stops' in runs['predicted/search2']['diverged']
    assert runs['predicted/search1']['diverged'] is None
    scores = [runs[f'predicted/search{i}']['metrics']['accuracy/top1'] for i in (0, 1)]
    assert runs['predicted/seed0']['settings'] == RATES[scores.index(max(scores))]
    own = runs['predicted/seed0']
    assert [step for step, _ in own['losses']] == [2] and own['iterations'] == 2
    config = records.study('ablation')['configs'][own['config']]
    assert 'train_cfg' in config and str(tmp_path) not in config
    assert own['machine']['commit'] and own['machine']['threads'] == 1
    # Of twelve images a share is a multiple of 100/12.
    score = next(records.results(second))['metrics']['accuracy/top1']
    assert score * 12 / 100 == pytest.approx(round(score * 12 / 100), abs=1e-3)

    # The checkpoint that others start with is kept, those of searches are not.
    kept = {path.relative_to(tmp_path / 'work').as_posix() for path in tmp_path.rglob('iter_*.pth')}
    assert 'ablation/predicted/seed0/iter_2.pth' in kept and len(kept) == 1
    # In another session it may be gone: it is made again only where it is needed.
    shutil.rmtree(tmp_path / 'work')
    assert make_study(tiny_arms, tmp_path).left() == []
    changed = first, replace(second, start=replace(second.start, mode='pad'))
    left = make_study(changed, tmp_path).left()
    assert [job.key for job in left] == ['predicted/seed0', 'enlarged/seed0']


def test_the_mean_mode_leaves_nothing_of_an_embedding_but_its_mean(tmp_path):
    from studies.train_one import convert

    from mmvheat.models import VHeat

    model = VHeat(dict(depths=(1, 1), dims=8), img_size=32, out_indices=1)
    state = {f'backbone.{name}': value for name, value in model.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'in.pth')
    convert(tmp_path / 'in.pth', tmp_path / 'out.pth', Start(FASHION, 32, 64, 'mean'))
    got = torch.load(tmp_path / 'out.pth')['state_dict']
    for stage, side in ((0, 16), (1, 8)):
        embed = got[f'backbone.freq_embed.{stage}']
        assert embed.shape[:2] == (side, side)
        assert (embed == embed[0, 0]).all()
        old = state[f'backbone.freq_embed.{stage}'].mean((0, 1))
        torch.testing.assert_close(embed[0, 0], old, rtol=0.3, atol=0.01)
    key = 'backbone.layers.0.0.op.linear.weight'
    assert torch.equal(got[key], state[key])


@pytest.mark.parametrize('path', ['ablation/predicted', 'downstream/digits/detector/scratch/short',
                                  'downstream/digits/segmentor/scratch/short'])  # fmt: skip
def test_a_search_is_tested_on_what_it_does_not_train_on(path, digits_for_study, monkeypatch):
    """And never on the validation set, which the run itself is tested on."""
    from studies.train_one import Task, _write_held_out, build_config

    monkeypatch.chdir(digits_for_study)
    shown = replace(
        find_arm(ARMS, path), holdout=(4, 2), config=str(ROOT / find_arm(ARMS, path).config)
    )
    if 'fashion' not in shown.config:
        pytest.importorskip('pycocotools')
    images = {}
    for kind in (0, None):
        task = Task(Job(shown, 0, kind), {}, digits_for_study / 'run', None, digits_for_study)
        cfg = build_config(task)
        (digits_for_study / 'run').mkdir(exist_ok=True)
        _write_held_out(cfg, task.folder)
        for part in ('train', 'test'):
            images[kind, part] = samples(cfg, part)
    assert len(images[0, 'train']) == 4 and len(images[0, 'test']) == 2
    assert not images[0, 'train'] & images[0, 'test']
    assert images[0, 'train'] | images[0, 'test'] <= images[None, 'train']
    assert not images[None, 'train'] & images[None, 'test']
    assert len(images[None, 'test']) == 3


def samples(cfg, part):
    """What tells the images of a data set apart."""
    from mmengine.registry import DATASETS, DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        data = DATASETS.build(cfg[f'{part}_dataloader'].dataset)
    infos = [data.get_data_info(i) for i in range(len(data))]
    return {info['img'].tobytes() if 'img' in info else str(info['img_path']) for info in infos}


@pytest.fixture(scope='module')
def digits_for_study(tmp_path_factory):
    from digits import prepare_digits

    top = tmp_path_factory.mktemp('top')
    prepare_digits(
        top / 'data' / 'digits', num_train_scenes=6, num_val_scenes=3, num_train_digits=12,
        num_val_digits=6, train_renders=1, val_renders=1,
    )  # fmt: skip
    raw = top / 'data' / 'fashion_mnist' / 'raw'
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (('train', 6), ('t10k', 3)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f'{name}-images-idx3-ubyte').write_bytes(idx(images))
        (raw / f'{name}-labels-idx1-ubyte').write_bytes(idx(np.zeros(count, np.uint8)))
    return top


def record(records: Records, arm: Arm, values: list[float], candidate: int | None = None) -> None:
    for seed, value in enumerate(values):
        metrics = dict.fromkeys(arm.metrics, value)
        job = Job(arm, seed, candidate)
        result = dict(
            study=arm.study, arm=arm.name, seed=seed, metrics=metrics, iterations=job.iterations,
            train_seconds=90.0, test_seconds=10.0, machine=dict(cpu='abacus', commit='0123456789'),
            config='model = {}\n', settings={}, losses=[],
        )  # fmt: skip
        records.add(job, result)


def test_the_page_says_what_the_records_say(tmp_path):
    """Means, spreads, differences and their test; 'not measured' elsewhere; picture and marks."""
    pytest.importorskip('scipy')
    shutil.copy(ROOT / 'docs' / 'study.md', tmp_path)
    records = Records(tmp_path / 'study')
    record(records, FASHION, [88.0, 89.0, 90.0])
    swin = find_arm(ARMS, 'ablation/swin')
    record(records, swin, [87.0, 88.5, 88.5])
    record(records, find_arm(ARMS, 'downstream/stamps/segmentor/pretrained/long'), [40.0, 44.0])
    record(records, find_arm(ARMS, 'downstream/stamps/segmentor/scratch/long'), [30.0, 32.0])
    for number, score in enumerate((70.0, 75.0, 72.0)):
        record(records, swin, [score], number)
    cost = dict(parameters=4e5, flops=16e6, inference_flops=15e6, milliseconds=[0.5, 0.4, 0.6])
    costs = dict(models={'predicted': cost, 'swin': cost}, fingerprint=digest_of(backbones()))
    (tmp_path / 'study' / 'costs.json').write_text(json.dumps(costs))
    page, *pictures = write_report(Records(tmp_path / 'study'), ARMS, tmp_path)
    lines = page.read_text().splitlines()

    def cells(start):
        (line,) = (line for line in lines if line.startswith(start))
        return [cell.strip() for cell in line.strip('|').split('|')]

    assert cells('| predicted | 89')[1:5] == ['89.00 ± 1.00 (3)', '', '400 k', '16.0 M']
    # Differences -1, -0.5, -1.5: t = -1 / (0.5 / sqrt 3), p of two degrees of freedom.
    t = 1 / (0.5 / math.sqrt(3))
    p = 1 - t / math.sqrt(t * t + 2)
    margin = 4.3027 * 0.5 / math.sqrt(3)
    swin_row = cells('| swin |')
    assert swin_row[1] == '88.00 ± 0.87 (3)'
    assert swin_row[2] == f'-1.00 ± {margin:.2f} (p = {p:.3f}, 3 seeds)'
    assert swin_row[5:] == ['0.500 [0.400, 0.600]', '0.002']
    assert cells('| learned | not')[1:3] == ['not measured', 'not measured']
    assert cells('| predicted | identity |')[2:] == ['not measured', 'not measured']
    row = cells('| stamps | segmentor | 450 |')
    assert row[4:6] == ['42.00 ± 2.83 (2)', '31.00 ± 1.41 (2)']
    assert row[6].startswith('+11.00 ± 12.71')
    assert cells('| ablation | 9')[2:] == ['0.2', 'abacus', '0123456']
    assert [path.stem for path in pictures] == ['study_costs', 'study_downstream']
    for picture in pictures:
        assert picture.stat().st_size > 5000 and f'(images/{picture.name})' in page.read_text()
    # Written once more, nothing changes: the marks are still there.
    again = page.read_text()
    write_report(Records(tmp_path / 'study'), ARMS, tmp_path)
    assert page.read_text() == again
    page.write_text(again.replace('<!-- transfer -->', ''))
    with pytest.raises(UserError, match='once: take it from git'):
        write_report(Records(tmp_path / 'study'), ARMS, tmp_path)


def test_statistics_of_few_seeds():
    assert summary([]) == 'not measured' and summary([3.0]) == '3.00 (1 seed)'
    assert compare({0: 1.0}, {0: 2.0}) is None
    assert compare({0: 1.0, 1: 2.0, 7: 3.0}, {0: 2.0, 1: 3.5}).seeds == 2
    same = compare({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.margin, same.p) == (0, 0, 1)


def test_a_search_chooses_the_best_and_no_training_that_failed(tmp_path):
    records = Records(tmp_path)
    for number, score in enumerate((70.0, 75.0)):
        record(records, FASHION, [score], number)
    assert records.choose(FASHION, ARMS) is None
    job = Job(FASHION, 0, 2)
    record(records, FASHION, [99.0], 2)
    records.study('ablation')['runs'][job.key]['metrics'] = {}
    assert records.choose(FASHION, ARMS) == 1
    assert Records(tmp_path).choose(FASHION, ARMS) == 2
    with pytest.raises(UserError, match='is damaged'):
        (tmp_path / 'transfer.json').write_text('[{')
        Records(tmp_path).study('transfer')


def test_the_list_and_mistakes_of_the_tool(tmp_path, capsys):
    main = load_script('tools/study.py').main
    options = ['--results', str(tmp_path / 'results'), '--work-dir', str(tmp_path / 'work')]
    assert main(['--list', '--only', 'ablation', *options]) == 0
    out = capsys.readouterr().out
    assert out.count('0/3') >= 24 and 'ablation: 72 runs left' in out
    assert not (tmp_path / 'work').exists()
    for arguments in (['--only', 'x'], ['--budget', '-1'], ['--seeds', 'x']):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and capsys.readouterr().err.count('\n') == 1
    tool = load_script('tools/study.py')
    tool.TOP = tmp_path
    call = [*options, '--fashion-mnist', str(tmp_path), '--only', 'ablation']
    assert run_command(lambda: tool.main(call)) == 2
    error = capsys.readouterr().err
    assert 'dataset-fashion-mnist' in error and 'torchvision' in error and error.count('\n') == 1
