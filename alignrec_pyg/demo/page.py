"""The web page, built with gradio."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import require_package
from alignrec_pyg.demo import render
from alignrec_pyg.demo.page_data import CannotShowError
from alignrec_pyg.demo.showcase import Showcase
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import KNNItemGraph

LISTED_USERS = 5_000
"""Number of users in the selection list; others can be selected by typing their id."""

_K, _MAX_K = 10, 50  # initial and largest length of a list on the page
_FONTS = ["system-ui", "sans-serif"]  # installed ones: others would be fetched from a host
_MAX_FILE = "40mb"
_KEEP_UPLOADS = (600, 600)  # seconds between two clean-ups, and the age of files they remove
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_FAILED = "This cannot be shown: the server failed. Its log says why; other requests may work."
# Browsers stop at what can be scrolled: at the open list of users, which then disappears with the
# focus.
_KEYBOARD = """() => new MutationObserver(() => {
  for (const list of document.querySelectorAll("ul[role=listbox]")) list.tabIndex = -1;
}).observe(document.body, {childList: true, subtree: true})"""
_CSS = Path(__file__).with_name("page.css")

_T = TypeVar("_T")
_Message: TypeAlias = MutableMapping[str, Any]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def page(
    model: Recommender,
    data: HeteroData,
    *,
    val: HeteroData | None = None,
    titles: Sequence[str | None] | None = None,
    user_names: Sequence[str] | None = None,
    images: Sequence[Any] | Tensor | None = None,
    encode: Sequence[BaseTransform] = (),
    item_graphs: Sequence[KNNItemGraph] = (),
    id_vectors: IdVectors = "none",
    title: str = "Recommendations",
) -> Page:
    """Creates a page that demonstrates a model: ``page(model, test, titles=names).launch()``.

    Visitors select a user to see the history, the recommendations and the items of the history that
    explain them. They can also provide an image, a text or both as a new item, which is added to
    the model without training; of a model that cannot do this the page says so.

    Args:
        model: A trained model.
        data: The graph to evaluate the model on, such as the test graph of a split. Its
            ``edge_index`` is the history of the users. If it has links to predict, recommendations
            among them are marked, and the page displays the metrics.
        val: The validation graph of the split. Its links to predict are then recommended and marked
            as those of ``data``; without it, what the test graph of
            :class:`~alignrec_pyg.transforms.SplitInteractions` knows of them is not recommended.
        titles: A title for each item, in the order of their indices; by default their ids.
        user_names: A name for each user, as within a sentence; by default "user" and the id.
        images: An image for each item, or ``None``; by default ``data["item"].image`` or
            ``.image_path``. Items without an image are displayed by their title.
        encode: The transforms that computed the features of the model, in the same order, for new
            items: each :class:`~alignrec_pyg.transforms.EncodeItems` with its fitted encoder and
            ``fit=False``. Without them, the page accepts no new items.
        item_graphs: The transforms that built the item graphs of the model.
        id_vectors: How the ID vectors of new items are initialised, as in
            :func:`~alignrec_pyg.serving.add_items`.
        title: Title of the page.

    Raises:
        ImportError: If gradio is not installed.
        ValueError: If ``data`` does not fit the model, there is not one title or image for each
            item, or ``encode`` and ``item_graphs`` do not produce the inputs of the model.
    """
    require_package("gradio", "the demo page", "gradio", extra="demo")
    showcase = Showcase(
        model,
        data,
        val=val,
        titles=titles,
        user_names=user_names,
        images=images,
        encode=encode,
        item_graphs=item_graphs,
        id_vectors=id_vectors,
    )
    return Page(showcase, title=title)


class Page:
    """The page of a :class:`~alignrec_pyg.demo.Showcase`.

    It makes no requests to other hosts, its content security policy forbids the browser to make
    any, and no usage is reported. Uploaded files are deleted after some minutes.

    Args:
        showcase: Computes what the page displays.
        title: Title of the page.

    Raises:
        ImportError: If gradio is not installed.
    """

    def __init__(self, showcase: Showcase, *, title: str = "Recommendations") -> None:
        gradio = require_package("gradio", "the demo page", "gradio", extra="demo")
        self._showcase = showcase
        self._gradio = gradio
        self._on = partial(
            gradio.on,
            trigger_mode="always_last",
            concurrency_id="model",
            api_visibility="private",
        )
        self._aspect = showcase.catalogue.aspect()
        self._blocks = gradio.Blocks(
            title=title, analytics_enabled=False, delete_cache=_KEEP_UPLOADS
        )
        with self._blocks:
            gradio.Markdown(f"# {title}")
            with gradio.Tab("For a user"):
                self._user_tab()
            if showcase.reads:
                with gradio.Tab("A new item"):
                    self._new_item_tab()
            elif showcase.no_new_items is not None:
                with gradio.Tab("A new item"):
                    gradio.HTML(render.message(showcase.no_new_items), elem_classes="ar")
            with gradio.Tab("About"):
                gradio.HTML(render.about(showcase.about()), elem_classes="ar")

    def launch(self, port: int | None = None, *, host: str = "127.0.0.1", wait: bool = True) -> str:
        """Serves the page.

        Args:
            port: Port to serve at; by default the first free one from 7860.
            host: Address to serve at. By default the page is available on this machine only, with
                ``"0.0.0.0"`` on the network.
            wait: Whether to print the address and serve until Ctrl-C; otherwise the page is served
                until :meth:`close` is called or the program ends.

        Returns:
            The address of the page.

        Raises:
            OSError: If the port is taken.
        """
        starlette = require_package("starlette.middleware", "the demo page", "gradio", extra="demo")
        _, address, _ = self._blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            footer_links=[],
            max_file_size=_MAX_FILE,
            app_kwargs={"middleware": [starlette.Middleware(_OwnHostOnly)]},
            theme=self._theme(),
            js=_KEYBOARD,
            css=f":root {{ --ar-aspect: {self._aspect:.3f}; }}\n{_CSS.read_text(encoding='utf-8')}",
        )
        if wait:
            sys.stdout.write(f"open {address} (stop with Ctrl-C)\n")
            sys.stdout.flush()
            self._blocks.block_thread()
        return str(address)

    def close(self) -> None:
        """Stops serving the page."""
        self._blocks.close(verbose=False)

    def _theme(self) -> Any:
        """Gradio's own, in colours that differ enough from what is behind them to be read."""
        theme = self._gradio.themes.Default(font=_FONTS, font_mono=["monospace"])
        return theme.set(
            body_text_color_subdued="*neutral_500",
            button_primary_background_fill="*primary_700",
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_hover_dark="*primary_800",
            color_accent="*primary_700",
        )

    def _user_tab(self) -> None:
        gradio = self._gradio
        users = self._showcase.users()
        with gradio.Row():
            user = gradio.Dropdown(
                users[:LISTED_USERS],
                value=users[0][1],
                label=f"User (type to search {len(users):,})",
                filterable=True,
                allow_custom_value=len(users) > LISTED_USERS,
                elem_id="ar-user",
            )
            k = gradio.Slider(1, _MAX_K, value=_K, step=1, label="Recommendations", elem_id="ar-k")
            hide = gradio.Checkbox(
                label="Without the most popular tenth of the items", elem_id="ar-hide"
            )
        known, recommended = self.for_user(users[0][1], _K, False)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320):  # on a phone the first one to be seen
                left = gradio.HTML(recommended, elem_id="ar-recommended", elem_classes="ar")
            with gradio.Column(scale=1, min_width=300):
                right = gradio.HTML(known, elem_id="ar-known", elem_classes="ar")
        changes = [user.change, k.change, hide.change]
        self._on(changes, self.for_user, [user, k, hide], [right, left])

    def _new_item_tab(self) -> None:
        gradio = self._gradio
        reads = self._showcase.reads
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                image = gradio.File(
                    label="Image (JPEG, PNG, WebP, GIF, BMP or TIFF)",
                    type="binary",
                    file_types=["image"],
                    height=180,
                    visible="image" in reads,
                    elem_id="ar-image",
                )
                preview = gradio.HTML("", elem_id="ar-preview", elem_classes="ar")
                text = gradio.Textbox(
                    label="Text",
                    placeholder="What is it? A title, a description ...",
                    lines=4,
                    max_length=5_000,
                    visible="text" in reads,
                    elem_id="ar-text",
                )
                k = gradio.Slider(
                    1, _MAX_K, value=_K, step=1, label="Similar items", elem_id="ar-new-k"
                )
                show = gradio.Button("Show what it is like", variant="primary", elem_id="ar-show")
            with gradio.Column(scale=2, min_width=320):
                hint = render.invitation(reads)
                result = gradio.HTML(hint, elem_id="ar-result", elem_classes="ar")
        self._on([image.change], self.preview, [image], preview)
        self._on([show.click, k.release], self.new_item, [image, text, k], result)

    def for_user(self, user: str | None, k: int, hide_popular: bool) -> tuple[str, str]:
        """The history of a user and the recommendations, as HTML."""

        def both() -> tuple[str, str]:
            view = self._showcase.for_user(user, int(k), hide_popular=hide_popular)
            return render.known_items(view), render.recommendations(view)

        return _answer(both, lambda message: ("", message))

    def new_item(self, image: bytes | None, text: str | None, k: int) -> str:
        """A new item compared with the catalogue, as HTML."""
        return _answer(lambda: render.new_item(self._showcase.new_item(image, text, int(k))), str)

    def preview(self, image: bytes | None) -> str:
        """An uploaded image as it will be used, as HTML."""
        return _answer(lambda: render.preview(self._showcase.preview(image)), str)


def _answer(make: Callable[[], _T], instead: Callable[[str], _T]) -> _T:
    """What ``make`` returns; a sentence, as HTML, in its place if that fails."""
    try:
        return make()
    except CannotShowError as error:
        return instead(render.message(str(error)))
    except Exception:  # whose words say nothing to a visitor: the log of the server has them
        logging.getLogger(__name__).exception("the page cannot answer")
        return instead(render.message(_FAILED))


class _OwnHostOnly:
    """Adds a content security policy that forbids requests to other hosts."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        async def send_with_policy(message: _Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY)
                message = {**message, "headers": [*message.get("headers", []), policy]}
            await send(message)

        await self._app(scope, receive, send_with_policy)
