"""The page: what the showcase tells, in a browser."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import require_package
from alignrec_pyg.demo import cards
from alignrec_pyg.demo.showcase import Showcase
from alignrec_pyg.demo.views import CannotShowError
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import KNNItemGraph

LISTED_USERS = 5_000
"""Users in the list to pick from; others are there for whoever types their id."""

_K, _MOST = 10, 50  # length of a list on the page, at first and at most
_FONTS = ["system-ui", "sans-serif"]  # the machine's: others would be fetched
_MAX_FILE = "40mb"
_KEEP_UPLOADS = (600, 600)  # seconds: how often to look for old ones, how old they are then
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_CSS = Path(__file__).with_name("page.css")

_Message: TypeAlias = MutableMapping[str, Any]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_App: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def page(
    model: Recommender,
    data: HeteroData,
    *,
    titles: Sequence[str | None] | None = None,
    images: Sequence[Any] | Tensor | None = None,
    encode: Sequence[BaseTransform] = (),
    item_graphs: Sequence[KNNItemGraph] = (),
    id_vectors: IdVectors = "none",
    title: str = "Recommendations",
) -> Page:
    """A page that shows a trained model: ``page(model, test, titles=names).launch()``.

    Who opens it picks a user and sees what they know, what they are recommended and which of their
    items are most like it; or brings an image, a text or both, and sees where the model places such
    an item, which takes no training.

    Args:
        model: A trained model.
        data: The graph to serve: what users know is its ``edge_index``. Where it has links to
            predict, recommendations among them are marked, and the page tells the metrics.
        titles: A title for each item, in the order of their numbers; by default their ids.
        images: An image for each item, ``None`` where it has none; by default
            ``data["item"].image`` or ``.image_path``. Items without one are shown by their title.
        encode: The transforms that made the features the model reads, in their order, for new
            items: each :class:`~alignrec_pyg.transforms.EncodeItems` with the encoder as it was
            fitted, and ``fit=False``. Without them the page takes no new items.
        item_graphs: The transforms that made the item graphs the model reads.
        id_vectors: What stands for the ID vectors of new items, as in
            :func:`~alignrec_pyg.serving.add_items`.
        title: Title of the page.

    Raises:
        ImportError: If gradio is not installed (the ``demo`` extra).
        ValueError: If ``data`` is not that of the model, there is not one title or image for each
            item, or ``encode`` or ``item_graphs`` do not make what the model reads.
    """
    require_package("gradio", "the demo page", "gradio", extra="demo")
    showcase = Showcase(
        model,
        data,
        titles=titles,
        images=images,
        encode=encode,
        item_graphs=item_graphs,
        id_vectors=id_vectors,
    )
    return Page(showcase, title=title)


class Page:
    """The page of a :class:`~alignrec_pyg.demo.Showcase`.

    It asks no other host for anything, and its answers forbid the browser to; no use of it is
    reported to anybody. Uploaded files are deleted after some minutes.

    Args:
        showcase: What to show.
        title: Title of the page.

    Raises:
        ImportError: If gradio is not installed (the ``demo`` extra).
    """

    def __init__(self, showcase: Showcase, *, title: str = "Recommendations") -> None:
        gradio = require_package("gradio", "the demo page", "gradio", extra="demo")
        self._showcase = showcase
        self._gradio = gradio
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
            with gradio.Tab("About"):
                gradio.HTML(cards.about(showcase.about()), elem_classes="ar")

    def launch(self, port: int | None = None, *, host: str = "127.0.0.1", wait: bool = True) -> str:
        """Serves the page.

        Args:
            port: Port to serve at; by default the first free one from 7860.
            host: Address to serve at: with the default this machine alone can open the page, with
                ``"0.0.0.0"`` every one that reaches it.
            wait: Whether to say the address and serve until Ctrl-C; else the page is there until
                :meth:`close` or the end of the program.

        Returns:
            Its address.

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
            theme=self._gradio.themes.Default(font=_FONTS, font_mono=["monospace"]),
            css=f":root {{ --ar-aspect: {self._aspect:.3f}; }}\n{_CSS.read_text(encoding='utf-8')}",
        )
        if wait:
            sys.stdout.write(f"open {address} (Ctrl-C ends it)\n")
            sys.stdout.flush()
            self._blocks.block_thread()
        return str(address)

    def close(self) -> None:
        """Serves no longer."""
        self._blocks.close(verbose=False)

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
            k = gradio.Slider(1, _MOST, value=_K, step=1, label="Recommendations", elem_id="ar-k")
            hide = gradio.Checkbox(
                label="Without the most popular tenth of the items", elem_id="ar-hide"
            )
        known, recommended = self.for_user(users[0][1], _K, False)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=300):
                left = gradio.HTML(known, elem_id="ar-known", elem_classes="ar")
            with gradio.Column(scale=2, min_width=320):
                right = gradio.HTML(recommended, elem_id="ar-recommended", elem_classes="ar")
        gradio.on(
            [user.change, k.change, hide.change],
            self.for_user,
            [user, k, hide],
            [left, right],
            trigger_mode="always_last",
            concurrency_id="model",
            api_visibility="private",
        )

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
                text = gradio.Textbox(
                    label="Text",
                    placeholder="What is it? A title, a description ...",
                    lines=4,
                    max_length=5_000,
                    visible="text" in reads,
                    elem_id="ar-text",
                )
                k = gradio.Slider(
                    1, _MOST, value=_K, step=1, label="Similar items", elem_id="ar-new-k"
                )
                show = gradio.Button("Show what it is like", variant="primary", elem_id="ar-show")
            with gradio.Column(scale=2, min_width=320):
                result = gradio.HTML(
                    cards.invitation(reads),
                    elem_id="ar-result",
                    elem_classes="ar",
                )
        gradio.on(
            [show.click, k.release],
            self.new_item,
            [image, text, k],
            result,
            trigger_mode="always_last",
            concurrency_id="model",
            api_visibility="private",
        )

    def for_user(self, user: str | None, k: int, hide_popular: bool) -> tuple[str, str]:
        """What a user knows and is recommended, as HTML."""
        try:
            view = self._showcase.for_user(user, int(k), hide_popular=hide_popular)
        except CannotShowError as error:
            return "", cards.message(str(error))
        return cards.known_items(view), cards.recommendations(view)

    def new_item(self, image: bytes | None, text: str | None, k: int) -> str:
        """What a new item is like, as HTML."""
        try:
            return cards.new_item(self._showcase.new_item(image, text, int(k)))
        except CannotShowError as error:
            return cards.message(str(error))


class _OwnHostOnly:
    """Tells browsers to ask no other host for anything, whatever the page's parts may want."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        async def send_with_policy(message: _Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY)
                message = {**message, "headers": [*message.get("headers", []), policy]}
            await send(message)

        await self._app(scope, receive, send_with_policy)
