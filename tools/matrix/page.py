"""Make docs/compatibility.md from docs/compatibility.json."""

from collections import defaultdict

from stacks import STACKS

TOP = """# Compatibility

Which versions mmvheat was tested with, by `make test-matrix`, and what failed. The command makes an
environment for each stack in `.matrix` by uv and runs tests in it.
[compatibility.json](compatibility.json) keeps the last result of each test file, and this page is
made from it. Files that are not counted were not run on that stack.

```bash
make test-matrix                          # the whole suite on all stacks that this machine can make
make test-matrix MATRIX_ARGS='oldest forks --tests tests/ops tests/engine'
make test-matrix MATRIX_ARGS=--list       # the stacks, without making any
```

A stack that a machine cannot make says why in its line. An environment takes up to 6 GB; `--remove`
deletes each after its run, and `rm -r .matrix` all. The stacks are in
[tools/matrix/stacks.py](../tools/matrix/stacks.py).
"""


def room(file: str) -> str:
    """The folder under `tests` that a test file is in: `tests/ops`, or `tests` itself."""
    return '/'.join(file.split('/')[:2]) if file.count('/') > 1 else 'tests'


def counts(files: dict) -> dict[str, int]:
    """The sums of some files' results."""
    kinds = ('passed', 'failed', 'skipped')
    return {kind: sum(file[kind] for file in files.values()) for kind in kinds}


def when(files: dict) -> str:
    """The days between which files were run."""
    days = sorted({file['day'] for file in files.values()})
    return ' to '.join(dict.fromkeys((days[0], days[-1])))


def table(header: list[str], rows: list[list]) -> str:
    """A table in Markdown."""
    lines = [header, ['---'] * len(header), *rows]
    return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)


def render(results: dict) -> str:
    """The page.

    Args:
        results: Stack name -> its facts and files, as `run.py` keeps them.
    """
    stacks, ran, rooms = [], {}, defaultdict(dict)
    for stack in STACKS:
        record = results.get(stack.name, {})
        files = record.get('files')
        if not files:
            reason = record.get('not_made', 'not run')
            stacks.append([stack.name, stack.python, '', '', '', reason, '', '', ''])
            continue
        ran[stack.name] = record
        total, packages = counts(files), record['packages']
        stacks.append(
            [
                stack.name,
                record['python'],
                packages['torch'],
                packages['numpy'],
                mmcv(record),
                *total.values(),
                when(files),
            ]
        )
        for file, result in files.items():
            rooms[room(file)].setdefault(stack.name, {})[file] = result
    header = ['stack', 'Python', 'torch', 'numpy', 'mmcv', 'passed', 'failed', 'skipped', 'run']
    parts = [TOP, '## Stacks\n', table(header, stacks)]
    parts.append(''.join(f'- **{stack.name}**: {stack.about}\n' for stack in STACKS))
    rows = [
        [f'`{name}`', *(cell(by_stack.get(stack)) for stack in ran)]
        for name, by_stack in sorted(rooms.items())
    ]
    parts += ['## Tests that passed, by folder\n', table(['folder', *ran], rows)]
    parts += ['## What failed\n', failures(ran) or 'Nothing that was run.\n']
    if partial := picked(ran):
        parts += ['## Files of which a part was run\n', partial]
    parts += ['## Versions and machines\n', versions(ran)]
    return '\n'.join(parts)


def mmcv(record: dict) -> str:
    """The mmcv of a stack with the origin of its functions."""
    names = ('mmcv-lite', 'mmcv', 'onedl-mmcv')
    found = [f'{name} {record["packages"][name]}' for name in names if name in record['packages']]
    return f'{found[0]}, {record["mmcv"]} ops'


def cell(files: dict | None) -> str:
    """What a folder gave on a stack."""
    if not files:
        return ''
    total, names = counts(files), 'file' if len(files) == 1 else 'files'
    failed = f', {total["failed"]} failed' if total['failed'] else ''
    return f'{total["passed"]} in {len(files)} {names}{failed}'


def failures(ran: dict) -> str:
    """The tests that failed, with the first line of why."""
    return ''.join(
        f'- **{stack}**, `{test}`: {reason}\n'
        for stack, record in ran.items()
        for file in record['files'].values()
        for test, reason in file['failures'].items()
    )


def picked(ran: dict) -> str:
    """The files of which single tests were picked, and how."""
    return ''.join(
        f'- **{stack}**, `{name}`: `{file["picked_by"]}`\n'
        for stack, record in ran.items()
        for name, file in record['files'].items()
        if 'picked_by' in file
    )


def versions(ran: dict) -> str:
    """The packages of each stack and the processors it ran on."""
    lines = []
    for stack, record in ran.items():
        packages = ', '.join(f'{name} {version}' for name, version in record['packages'].items())
        cpus = ' and '.join(sorted({file['cpu'] for file in record['files'].values()}))
        lines.append(f'- **{stack}**: {packages}; on {cpus}.\n')
    return ''.join(lines)
