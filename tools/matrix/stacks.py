"""The stacks that `make test-matrix` tries."""

from dataclasses import dataclass

from packages import pins

# The torch of the lock file, for stacks that differ from it in something else.
LOCKED_TORCH = tuple(f'{name}=={pins()[name]}' for name in ('torch', 'torchvision'))
FORKS = ('mmcv', 'mmdetection', 'mmengine', 'mmpretrain', 'mmsegmentation')


@dataclass(frozen=True)
class Stack:
    """A Python and the packages that go into an environment of its own.

    Attributes:
        name: How it is called, its folder in `.matrix` too.
        python: The version of Python.
        about: What it is, for the page.
        needs: What to install beside the needs of pyproject.toml, newest versions for all that
            neither names. None of it: the lock file as it is.
        instead: Packages that `needs` takes the place of, which are left out.
    """

    name: str
    python: str
    about: str
    needs: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()


STACKS = (
    Stack('tested', '3.11', 'The lock file, as `make setup` installs it.'),
    Stack(
        'oldest',
        '3.10',
        'The oldest torch and Python, and the oldest numpy that scipy and opencv take there.',
        needs=('torch==2.6.0', 'torchvision==0.21.0', 'numpy==1.21.6'),
    ),
    Stack('newest', '3.11', 'The newest torch and all else new.', needs=('torch', 'torchvision')),
    Stack('python3.12', '3.12', 'The lock file on Python 3.12.'),
    Stack('python3.13', '3.13', 'The lock file on Python 3.13.'),
    Stack(
        'forks',
        '3.11',
        'The forks of mmengine, mmcv, mmdetection, mmsegmentation and mmpretrain that are still '
        'maintained, built from their source packages, where onedl-mmcv brings no compiled module.',
        needs=(*LOCKED_TORCH, *(f'onedl-{name}' for name in FORKS)),
        instead=('mmcv-lite', 'mmdet', 'mmengine', 'mmpretrain', 'mmsegmentation'),
    ),
)
