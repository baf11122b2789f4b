"""Run the tests on more than one stack, one line a stack, and keep the results.

`make test-matrix` calls it. Each stack gets an environment in `.matrix`, made by uv. Results go to
docs/compatibility.json, from which docs/compatibility.md is made.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

sys.path.append(str(Path(__file__).resolve().parents[1] / 'setup'))

from environments import FOLDER, facts, make
from page import counts, mmcv, render
from processes import ROOT, SetupError, child_env, clock, say
from stacks import STACKS, Stack

RESULTS = ROOT / 'docs' / 'compatibility.json'
PAGE = RESULTS.with_suffix('.md')
PYTEST = '-n 2 --dist loadfile --no-loadscope-reorder -W ignore -q -o junit_family=xunit1'


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [stack.name for stack in STACKS]
    parser.add_argument('stacks', nargs='*', metavar='STACK', help=f'{", ".join(names)}: all')
    parser.add_argument(
        '--remove', action='store_true', help='delete each environment after its run'
    )
    parser.add_argument('--list', action='store_true', help='show the stacks and make none')
    parser.add_argument('--page', action='store_true', help='only make the page anew')
    parser.add_argument(
        '--tests',
        nargs=argparse.REMAINDER,
        default=['tests'],
        help='what pytest is to run, at the end of the line: the whole suite',
    )
    args = parser.parse_args(arguments)
    if unknown := set(args.stacks) - set(names):
        parser.error(f'no stack {", ".join(sorted(unknown))}: expected {", ".join(names)}')
    return args


def cpu() -> str:
    """The name of this machine's processor."""
    info = Path('/proc/cpuinfo')
    names = [
        line.partition(':')[2].strip()
        for line in (info.read_text() if info.exists() else '').splitlines()
        if line.startswith('model name')
    ]
    return f'{names[0]} ({len(names)} cores)' if names else platform.machine()


def read_report(report: Path) -> dict[str, dict]:
    """Results by test file, from the report that pytest wrote."""
    files = {}
    for case in ElementTree.parse(report).iter('testcase'):
        # A file that cannot be imported is a case without a file, named as a module.
        module = case.get('classname') or case.get('name')
        file = case.get('file') or module.replace('.', '/') + '.py'
        result = files.setdefault(
            file, {'passed': 0, 'failed': 0, 'skipped': 0, 'seconds': 0, 'failures': {}}
        )
        bad = [part for part in case if part.tag in ('failure', 'error')]
        kind = 'failed' if bad else 'skipped' if case.find('skipped') is not None else 'passed'
        result[kind] += 1
        result['seconds'] = round(result['seconds'] + float(case.get('time', 0)), 1)
        for part in bad:
            lines = part.get('message', '').splitlines() or ['']
            result['failures'][f'{file}::{case.get("name")}'] = lines[0][:200]
    return files


def run_tests(stack: Stack, python: Path, tests: list[str]) -> dict[str, dict]:
    """Run tests in an environment; give results by file.

    Raises:
        SetupError: pytest ended without a report.
    """
    report, log = FOLDER / f'{stack.name}.xml', FOLDER / f'{stack.name}.log'
    report.unlink(missing_ok=True)
    command = [str(python), '-m', 'pytest', *PYTEST.split(), f'--junitxml={report}', *tests]
    with log.open('w') as out:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=child_env(),
            cwd=ROOT,
        )
    # 0 and 1: all ran. Others are interruptions, bad calls and crashes, whatever was reported.
    if done.returncode not in (0, 1) or not report.exists():
        raise SetupError(f'pytest ended with status {done.returncode} (log: {log})')
    return read_report(report)


def load() -> dict:
    """The results that are kept."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(results: dict) -> None:
    """Write the results, then the page."""
    text = json.dumps(results, indent=1, sort_keys=True) + '\n'
    # From what was written, in its order, as `--page` and the test make it.
    for path, content in ((RESULTS, text), (PAGE, render(json.loads(text)))):
        partial = path.with_name(path.name + '.partial')
        partial.write_text(content)
        os.replace(partial, path)


def try_stack(stack: Stack, tests: list[str]) -> bool | None:
    """Make a stack, run tests on it, print its line, and keep the results.

    Returns:
        Whether the tests passed; None for a stack that this machine cannot make.
    """
    begin = time.monotonic()
    start = f'{stack.name:<11} Python {stack.python:<7}'
    try:
        python = make(stack)
    except (SetupError, OSError) as error:
        # An earlier run, perhaps on another machine, says more.
        results = {stack.name: {'not_made': str(error).partition(' (log:')[0]}, **load()}
        keep(results)
        say(f'{start} not made: {error}')
        return None
    try:
        found = facts(python)
        start = (
            f'{stack.name:<11} Python {found["python"]:<7} torch {found["packages"]["torch"]:<8}'
        )
        start += f' {mmcv(found)}:'
        files = run_tests(stack, python, tests)
    except SetupError as error:
        say(f'{start} failed: {error}')
        return False
    # A call that picks single tests leaves the rest of their files unsaid.
    picks = any(word in ('-k', '-m') or '::' in word for word in tests)
    for file in files.values():
        if picks:
            file['picked_by'] = ' '.join(tests)
        file.update(day=time.strftime('%Y-%m-%d'), cpu=cpu())
    # Read only now, for two calls may run side by side.
    results = load()
    record = results.get(stack.name, {})
    # What ran with other versions says nothing of these.
    same = {key: record.get(key) for key in found} == found
    results[stack.name] = {**found, 'files': {**(record['files'] if same else {}), **files}}
    keep(results)
    total = counts(files)
    line = ', '.join(f'{count} {kind}' for kind, count in total.items())
    say(f'{start} {line} in {clock(time.monotonic() - begin)}')
    return not total['failed']


def main(arguments: list[str] | None = None) -> int:
    """Try the stacks; return the exit status: 1 if one fails or none can be made."""
    args = parse(arguments)
    chosen = [stack for stack in STACKS if stack.name in (args.stacks or [stack.name])]
    if args.list:
        for stack in chosen:
            say(
                f'{stack.name:<11} Python {stack.python:<5} {", ".join(stack.needs) or "lock file"}'
            )
        return 0
    if args.page:
        keep(load())
        return 0
    FOLDER.mkdir(exist_ok=True)
    passed = []
    for stack in chosen:
        passed.append(try_stack(stack, args.tests))
        if args.remove:
            shutil.rmtree(FOLDER / stack.name, ignore_errors=True)
    return 1 if False in passed or passed.count(None) == len(passed) else 0


if __name__ == '__main__':
    sys.exit(main())
