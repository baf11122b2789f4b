"""What is kept of runs: one JSON file for each sub-study, small enough to commit."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmvheat.errors import UserError

from .grid import Arm, backbones, find_arm

__all__ = ['Job', 'Records', 'digest_of', 'jobs_of', 'read_costs', 'write_json']


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        arm: What it trains.
        seed: Of the training.
        candidate: Which of the arm's candidates a search tries; None for a run on the whole
            training set.
    """

    arm: Arm
    seed: int
    candidate: int | None = None

    @property
    def key(self) -> str:
        """Its name within the sub-study."""
        kind = f'seed{self.seed}' if self.candidate is None else f'search{self.candidate}'
        return f'{self.arm.name}/{kind}'

    @property
    def iterations(self) -> int:
        """Its length."""
        return self.arm.iterations if self.candidate is None else self.arm.search_iterations

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what it is asked to do; the rate that a search chose is not part."""
        arm = asdict(_without_estimates(self.arm))
        if self.candidate is None:
            arm['search_iterations'] = arm['holdout'] = None
        return digest_of([arm, self.seed, self.candidate])


def _without_estimates(arm: Arm) -> Arm:
    """Drop what changes no result, also of the arm that it starts with."""
    start = arm.start and replace(arm.start, arm=_without_estimates(arm.start.arm))
    return replace(arm, start=start, seconds=0, test_seconds=0)


def jobs_of(arm: Arm, seeds: int) -> list[Job]:
    """List the runs of an arm: its search, if it has one, then one for every seed."""
    searches = []
    if len(arm.candidates) > 1 and arm.like is None:
        searches = [Job(arm, 0, number) for number in range(len(arm.candidates))]
    return searches + [Job(arm, seed) for seed in range(seeds)]


def digest_of(content: Any) -> str:
    """SHA-256 (hex) of something that JSON can spell."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_costs(folder: Path) -> dict[str, Any]:
    """Read what `costs.measure_costs` wrote.

    Returns:
        The costs of the ablation's models by name; none if they were not measured, or were of
        other models.

    Raises:
        UserError: If the file is damaged.
    """
    path = folder / 'costs.json'
    try:
        content = json.loads(path.read_text())
        return content['models'] if content['fingerprint'] == digest_of(backbones()) else {}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is damaged ({error}): remove it to measure again') from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    part.write_text(json.dumps(content, indent=1, sort_keys=True) + '\n')
    os.replace(part, path)


class Records:
    """The results in a folder.

    A file ``<study>.json`` has ``runs`` by key, and ``configs`` by digest, because runs of one arm
    have one config but for its seed.

    Args:
        folder: Where the files are, e.g. ``docs/study``.

    Raises:
        UserError: If one of them is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._studies: dict[str, dict[str, Any]] = {}

    def study(self, name: str) -> dict[str, Any]:
        """What is known of a sub-study: ``configs`` and ``runs``."""
        if name not in self._studies:
            path = self.folder / f'{name}.json'
            try:
                content = json.loads(path.read_text())
                runs, configs = dict(content['runs']), dict(content['configs'])
            except FileNotFoundError:
                runs, configs = {}, {}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f'{path} is damaged ({error}): take it from git, or remove it to train anew'
                ) from error
            self._studies[name] = {'runs': runs, 'configs': configs}
        return self._studies[name]

    def find(self, job: Job) -> dict[str, Any] | None:
        """The result of a run; None if it was not run, or another was asked for then."""
        found = self.study(job.arm.study)['runs'].get(job.key)
        return found if found and found['fingerprint'] == job.fingerprint else None

    def results(self, arm: Arm) -> Iterator[dict[str, Any]]:
        """The results of an arm on the whole training set, by seed."""
        runs = self.study(arm.study)['runs']
        seeds = [run['seed'] for key, run in runs.items() if key.startswith(f'{arm.name}/seed')]
        for seed in sorted(seeds):
            if found := self.find(Job(arm, seed)):
                yield found

    def add(self, job: Job, result: dict[str, Any]) -> None:
        """Keep a result, on the disk too."""
        study = self.study(job.arm.study)
        result = dict(result)
        config = result.pop('config')
        digest = hashlib.sha256(config.encode()).hexdigest()[:16]
        study['configs'][digest] = config
        study['runs'][job.key] = result | {'config': digest, 'fingerprint': job.fingerprint}
        used = {run['config'] for run in study['runs'].values()}
        study['configs'] = {key: study['configs'][key] for key in study['configs'] if key in used}
        write_json(self.folder / f'{job.arm.study}.json', study)

    def choose(self, arm: Arm, arms: tuple[Arm, ...]) -> int | None:
        """Tell which candidate of an arm its search found best; None while it is not known."""
        if len(arm.candidates) == 1:
            return 0
        searched = arm if arm.like is None else find_arm(arms, arm.like)
        metric = next(iter(searched.metrics))
        scores = []
        for number in range(len(searched.candidates)):
            found = self.find(Job(searched, 0, number))
            if found is None:
                return None
            # A training that came to nothing is no choice.
            score = found['metrics'].get(metric)
            scores.append(float('-inf') if score is None else score)
        return scores.index(max(scores))
