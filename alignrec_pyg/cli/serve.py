"""``alignrec serve``: recommendations over HTTP."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from alignrec_pyg.checks import require_package
from alignrec_pyg.cli.experiment_options import num_cores
from alignrec_pyg.cli.options import (
    DataFolder,
    Device,
    OptionError,
    OwnModel,
    ServedFolder,
    device_named,
    log,
    natural,
    positive_int,
)

if TYPE_CHECKING:
    from alignrec_pyg import Server

_LARGEST_PORT = 65535


def serve(
    folder: ServedFolder,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen; others than this machine's reach "
            "0.0.0.0, and there is no password.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(parser=natural, metavar="N", help="Port; 0 takes any that is free.")
    ] = 8000,
    max_k: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="Longest list of a request.")
    ] = 100,
    max_ids: Annotated[
        int,
        typer.Option(parser=positive_int, metavar="N", help="Most users or items of a request."),
    ] = 1000,
    threads: Annotated[
        int | None,
        typer.Option(
            parser=positive_int,
            metavar="N",
            help="Requests computed at a time, one CPU thread each.",
            show_default="all processors",
        ),
    ] = None,
    data: DataFolder = None,
    model: OwnModel = None,
    device: Device = "auto",
) -> None:
    """Answer requests for recommendations in JSON, until Ctrl-C.

    POST /recommend and /similar, GET /health; POST /reload loads DIR again without an interruption.
    """
    for package in ("starlette", "uvicorn"):
        require_package(package, "alignrec serve", "starlette uvicorn", extra="serve")
    import torch
    import uvicorn

    from alignrec_pyg import Server
    from alignrec_pyg.cli.runs import load_served
    from alignrec_pyg.serving.service import make_service

    if port > _LARGEST_PORT:
        raise OptionError("--port", f"needs to be at most {_LARGEST_PORT} (got {port})")
    place = device_named(device)
    torch.set_num_threads(1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OptionError(
            "--host, --port", f"{host} port {port} cannot be used ({error})"
        ) from error
    with listening:

        def load() -> Server:
            return Server(*load_served(folder, data, model, place), keep_model=False)

        service = make_service(
            load, max_ids=max_ids, max_k=max_k, num_threads=threads or num_cores()
        )
        server: Server = service.state.server
        shown = f"[{host}]" if ":" in host else host
        log(
            f"{server.model_name} of {len(server.users):,} users and {len(server.items):,} items: "
            f"http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)"
        )
        config = uvicorn.Config(service, log_level="warning", access_log=False)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
