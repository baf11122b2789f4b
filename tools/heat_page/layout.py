"""How the page looks, and what happens when something is clicked or moved."""

import html
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import numpy as np

from mmvheat.errors import UserError
from mmvheat.visualization.plots.style import HEAT

from .answers import Answers, Found, Heat
from .uploads import FORMATS, LONGEST_SIDE, MAX_BYTES, MAX_PIXELS

__all__ = ['Page']

# For what gradio asks on its own, beside the option of the page.
os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'

_LONGEST, _MOST, _FRAMES = 16.0, 8.0, 33
_KEPT, _SECONDS = 3600, 20
_STOPS = ', '.join(
    'rgb({},{},{})'.format(*HEAT(share, bytes=True)[:3]) for share in np.linspace(0, 1, 9)
)
_STYLE = """
.gradio-container { max-width: 1600px !important; margin: 0 auto !important; }
.sharp img { image-rendering: pixelated; width: 100%; }
#image img { cursor: crosshair; }
#examples .thumbnail-item { aspect-ratio: 1; height: auto; }
#examples .grid-container {
  grid-template-columns: repeat(5, minmax(0, 1fr)) !important; grid-auto-rows: auto;
}
.small p { font-size: 0.85em; }
#rows table, #rows tr { border: none; }
#rows table { width: 100%; border-collapse: collapse; font-size: 0.9em; }
#rows th, #rows td {
  padding: 0.3em 0.5em; text-align: left; border: none;
  border-bottom: 1px solid var(--border-color-primary);
}
.scale { display: flex; align-items: center; gap: 0.6em; font-size: 0.9em; }
.scale div { flex: 1; height: 0.9em; border-radius: 3px; }
footer { display: none !important; }
"""
_INTRO = """# Heat in a vHeat
Click a pixel of the image and move the sliders: one block of the model conducts the heat of that
pixel over its map, and each frequency fades at the rate *k* that the block has learned."""


@contextmanager
def _in_words() -> Iterator[None]:
    """Show mistakes on the page; their text may hold names of files."""
    try:
        yield
    except UserError as error:
        text = html.escape(str(error))
        raise gr.Error(text, duration=_SECONDS, print_exception=False) from error


class Page:
    """The page, with its server.

    Args:
        answers: What it answers.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        # Pictures and uploads older than an hour are deleted.
        with gr.Blocks(
            title='Heat in a vHeat',
            analytics_enabled=False,
            delete_cache=(_KEPT // 6, _KEPT),
            fill_width=True,
        ) as self.blocks:
            gr.Markdown(_INTRO)
            self._model = gr.Dropdown(
                [(model.title, model.name) for model in answers.models], label='Model',
                elem_id='model',
            )  # fmt: skip
            with gr.Row():
                with gr.Column(min_width=240):
                    self._add_controls()
                with gr.Column(min_width=200):
                    self._image = _picture('Image as the model sees it: click a pixel', 'image')
                    with gr.Row():
                        self._row = _place('Row')
                        self._column = _place('Column')
                with gr.Column(min_width=200):
                    self._heat = _picture('Heat of the pixel', 'heat')
                    self._scale = gr.HTML()
                    self._words = gr.Markdown(elem_id='words')
                with gr.Column(min_width=200):
                    self._found = _picture('What the model finds', 'found')
                    self._rows = gr.HTML(elem_id='rows')
            self._connect()

    def _add_controls(self) -> None:
        self._upload = gr.UploadButton('Upload an image', elem_id='upload')
        # The image that is shown, and whether it was uploaded; a refused one never gets here.
        self._file, self._own = gr.File(visible=False), gr.State(False)
        megapixels, megabytes = MAX_PIXELS / 1e6, MAX_BYTES // 2**20
        gr.Markdown(
            f'{", ".join(FORMATS)}; to {megapixels:.1f} megapixels and {megabytes} MB. Larger '
            f'than {LONGEST_SIDE} pixels, it is shrunk to that.',
            elem_classes='small',
        )
        self._examples = gr.Gallery(
            label='Examples', columns=5, allow_preview=False, object_fit='cover', buttons=[],
            height=160, show_label=False, elem_id='examples',
        )  # fmt: skip
        depths = [self._answers.depths(model.name) for model in self._answers.models]
        last_stage = max(map(len, depths)) - 1
        # A slider needs two places.
        last_block = max(max(map(max, depths)) - 1, 1)
        self._stage = gr.Slider(0, last_stage, 0, step=1, label='Stage', elem_id='stage')
        self._block = gr.Slider(0, last_block, 0, step=1, label='Block', elem_id='block')
        self._time = gr.Slider(
            0, _LONGEST, 1, step=0.1, label='Time t', elem_id='time', info='1: what the block does'
        )
        self._factor = gr.Slider(
            0, _MOST, 1, step=0.1, label='Factor on k', elem_id='factor', info='1: k as learned'
        )
        self._play = gr.Button('Watch it spread', elem_id='play')

    def _connect(self) -> None:
        pixel = [self._row, self._column]
        place = [self._model, self._file, *pixel, self._stage, self._block]
        heat = dict(
            fn=self._spread,
            inputs=[*place, self._time, self._factor],
            outputs=[self._image, self._heat, self._scale, self._words],
            trigger_mode='always_last',
            show_progress='hidden',
        )
        find = dict(
            fn=self._find,
            inputs=[self._model, self._file],
            outputs=[self._found, self._rows],
            api_name='find',
        )
        private: Any = dict(api_visibility='private', show_progress='hidden')

        def look(event: Any) -> None:
            """Put the pixel to the middle, show its heat, then what is found."""
            centre = event.success(self._centre, [self._model, self._file], pixel, **private)
            centre.success(**heat, api_visibility='private').success(**find)

        look(
            gr.on(
                [self.blocks.load, self._model.input],
                self._choose,
                [self._model, self._file, self._own],
                [self._file, self._examples, self._stage, self._block],
                **private,
            )
        )
        taken = [self._file, self._own]
        look(self._upload.upload(self._take, [self._model, self._upload], taken, **private))
        look(self._examples.select(self._take_example, self._model, taken, **private))
        self._image.select(self._click, [self._model, self._file], pixel, **private).success(
            **heat, api_name='heat'
        )
        self._stage.input(
            self._block_slider, [self._model, self._stage], self._block, **private
        ).success(**heat, api_visibility='private')
        gr.on(
            [part.input for part in (self._block, self._time, self._factor, *pixel)],
            **heat,
            api_visibility='private',
        )
        self._play.click(
            self._frames,
            [*place, self._factor],
            [self._time, self._image, self._heat, self._scale, self._words],
            **private,
        )

    @_in_words()
    def _choose(self, name: str, path: str | None, own: bool) -> tuple:
        model, depths = self._answers.model(name), self._answers.depths(name)
        examples = [str(path) for path in model.examples]
        if not own:
            path = examples[0] if examples else None
        stage = gr.Slider(maximum=len(depths) - 1, value=0)
        gallery = gr.Gallery(examples, visible=bool(examples))
        return path, gallery, stage, self._block_slider(name, 0)

    @_in_words()
    def _block_slider(self, name: str, stage: int) -> Any:
        depth = self._answers.depths(name)[int(stage)]
        return gr.Slider(maximum=max(depth - 1, 1), value=depth - 1, visible=depth > 1)

    @_in_words()
    def _take(self, name: str, path: str) -> tuple[str, bool]:
        self._answers.size(name, path)
        return path, True

    @_in_words()
    def _take_example(self, name: str, event: gr.SelectData) -> tuple[str, bool]:
        return str(self._answers.model(name).examples[event.index]), False

    @_in_words()
    def _centre(self, name: str, path: str | None) -> tuple[int, int]:
        height, width = self._answers.size(name, path)
        return height // 2, width // 2

    @_in_words()
    def _click(self, name: str, path: str | None, event: gr.SelectData) -> tuple[int, int]:
        column, row = event.index
        zoom = self._answers.zoom(name, path)
        return row // zoom, column // zoom

    @_in_words()
    def _find(self, name: str, path: str | None) -> tuple[np.ndarray, str]:
        found = self._answers.find(name, path)
        return found.picture, _table(found)

    @_in_words()
    def _spread(
        self,
        name: str,
        path: str | None,
        row: int,
        column: int,
        stage: int,
        block: int,
        time: float,
        factor: float,
    ) -> tuple:
        if row is None or column is None:
            raise UserError('the pixel needs a row and a column')
        pixel, block = (row, column), (int(stage), int(block))
        heat = self._answers.spread(name, path, pixel, *block, time, factor)
        return heat.image, heat.picture, _scale(heat), heat.words

    def _frames(self, *given: Any) -> Iterator[tuple]:
        *place, factor = given
        for time in np.linspace(0, _LONGEST, _FRAMES).tolist():
            yield time, *self._spread(*place, time, factor)

    def serve(self, host: str, port: int | None) -> str:
        """Start to serve, in threads of their own.

        Args:
            host: Address to listen on.
            port: Port; None for 7860 or the next free one.

        Returns:
            Where the page is.

        Raises:
            UserError: If that host or port cannot be had.
        """
        examples = [str(path) for model in self._answers.models for path in model.examples]
        self.blocks.queue(max_size=200, default_concurrency_limit=4)
        try:
            _, url, _ = self.blocks.launch(
                server_name=host, server_port=port, share=False, quiet=True, show_error=True,
                prevent_thread_lock=True, inbrowser=False, ssr_mode=False, mcp_server=False,
                run_history=False, enable_monitoring=False, footer_links=[],
                max_file_size=MAX_BYTES, state_session_capacity=1000, css=_STYLE,
                allowed_paths=examples,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f'{host}:{port or ""} cannot be served on: {error}') from error
        return url


def _picture(title: str, name: str) -> gr.Image:
    # A label would cover a corner of the picture.
    gr.Markdown(f'**{title}**')
    return gr.Image(
        label=title, show_label=False, format='png', interactive=False, buttons=[], elem_id=name,
        elem_classes='sharp',
    )  # fmt: skip


def _place(title: str) -> gr.Number:
    return gr.Number(0, label=title, precision=0, min_width=80, elem_id=title.lower())


def _table(found: Found) -> str:
    if not found.rows:
        return '<p>nothing</p>'
    head = ''.join(f'<th>{name}</th>' for name in found.columns)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{html.escape(cell)}</td>' for cell in row) + '</tr>'
        for row in found.rows
    )
    return f'<table><tr>{head}</tr>{body}</table>'


def _scale(heat: Heat) -> str:
    return (
        f'<div class="scale"><span>{heat.coldest:.1g}</span>'
        f'<div style="background: linear-gradient(to right, {_STOPS})"></div>'
        '<span>1</span><span>temperature (grey: below 0)</span></div>'
    )
