"""Images that people upload: what is accepted, and in words what is not."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmvheat.errors import UserError

__all__ = ['FORMATS', 'LONGEST_SIDE', 'MAX_BYTES', 'MAX_PIXELS', 'read_photo']

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 4096 * 4096
# Larger ones are shrunk to it: no request takes long, and the browser gets small pictures.
LONGEST_SIDE = 1024
_SHORTEST_SIDE = 8
# Not all that PIL reads: it starts Ghostscript for some.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF')


def read_photo(path: str) -> np.ndarray:
    """Read an uploaded image, its size first.

    Args:
        path: Where the upload is.

    Returns:
        Shape (H, W, 3), BGR, uint8; of an animation the first picture, turned as its EXIF says, at
        most :data:`LONGEST_SIDE` on the longer side.

    Raises:
        UserError: If it is no image, a damaged, a huge or a tiny one.
    """
    name = Path(path).name
    try:
        # Reads the head of the file alone.
        with Image.open(path, formats=FORMATS) as image:
            _check_size(name, image.size)
            image.draft('RGB', (LONGEST_SIDE, LONGEST_SIDE))
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith('I;16'):
                # PIL would clip them.
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert('RGB')
    except Image.DecompressionBombError as error:
        raise UserError(f'{name} has more than {MAX_PIXELS:,} pixels: shrink it') from error
    except UnidentifiedImageError as error:
        kinds = ', '.join(FORMATS)
        raise UserError(f'{name} is no image that can be read: give one of {kinds}') from error
    except FileNotFoundError as error:
        raise UserError(f'{name} is not here any more: upload it again') from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        # What PIL says of a file whose head is right and whose rest is not.
        raise UserError(f'{name} is damaged and cannot be read: {error}') from error
    upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    if min(upright.size) < _SHORTEST_SIDE:
        width, height = upright.size
        raise UserError(
            f'{name} is {width} x {height} pixels, here: at least {_SHORTEST_SIDE} on each side '
            'are needed'
        )
    return np.ascontiguousarray(np.asarray(upright)[..., ::-1])


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UserError(
            f'{name} has {width} x {height} = {width * height:,} pixels, the limit is '
            f'{MAX_PIXELS:,}: shrink it'
        )
