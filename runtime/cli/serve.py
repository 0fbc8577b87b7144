"""`qo-serve`: a web page and an API that search an index."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, common_options, main_argument, option_group
from queryopt.errors import ExitCode, InputError, MissingError
from queryopt.runtime.cli.options import HasherOptions, hasher_options, model_option
from queryopt.runtime.cli.search import default_index
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from socket import socket

    from queryopt.runtime.hasher import Hasher
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.serve.gallery import Gallery

__all__ = ["main"]

_DEFAULT_PORT = 8321


@dataclass(frozen=True)
class ListenOptions:
    """Where the server listens, and by which other names clients call it."""

    host: str
    port: int
    hosts: tuple[str, ...]


_listen_options = option_group(
    "listen",
    ListenOptions,
    click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
    click.option(
        "--port", type=click.IntRange(0, 65535), default=_DEFAULT_PORT, show_default=True, help="The port; 0 takes any."
    ),
    click.option(
        "--allow-host",
        "hosts",
        metavar="NAME",
        multiple=True,
        help="A name that clients call this server by, behind a proxy, say. May be given again.",
    ),
)


@dataclass(frozen=True)
class UploadOptions:
    """The largest picture that is taken: MiB, and millions of pixels."""

    max_upload: int
    max_megapixels: int


_upload_options = option_group(
    "upload",
    UploadOptions,
    click.option(
        "--max-upload",
        type=click.IntRange(1, 1024),
        default=20,
        show_default=True,
        help="MiB of a picture that is sent.",
    ),
    click.option(
        "--max-megapixels",
        type=click.IntRange(1, 89),
        default=40,
        show_default=True,
        help="Its most pixels, in millions.",
    ),
)


@click.command(cls=Command, name="qo-serve")
@main_argument("[INDEX]", "index_path")
@click.option(
    "--index",
    "index_path",
    metavar="INDEX",
    type=click.Path(path_type=Path),
    help="The index.  [default: ./photos.db, else the only *.db here]",
)
@model_option("The model, for pictures that the index doesn't hold.  [default: the index's own]")
@_listen_options
@click.option(
    "--bit-cards",
    "cards_path",
    type=click.Path(path_type=Path),
    help="What each bit means: the JSON that qo-eval --bits-out writes.",
)
@_upload_options
@hasher_options(batch=16)
@common_options
def main(
    index_path: Path | None,
    listen: ListenOptions,
    cards_path: Path | None,
    upload: UploadOptions,
    hashing: HasherOptions,
    out: Output,
) -> ExitCode:
    """Serve INDEX to browsers and programs: search with pictures, see what each bit looks at, find duplicates.

    \b
    Examples:
      qo-serve photos.db
      qo-serve photos.db --model model.onnx --bit-cards bits.json
      qo-serve photos.db --host 0.0.0.0 --allow-host birds.example
      curl -F file=@bird.jpg -F k=5 http://127.0.0.1:8321/search

    Only this machine can reach it, unless --host says otherwise. What qo-infer adds to the index meanwhile is found.
    Ctrl-C or SIGTERM stops it when running requests are done. A model that was exported with --explain shows where each
    bit looks.

    \b
    Exit codes:
      0    stopped by SIGTERM
      2    wrong usage: a port that is taken, a model that is not the index's
      3    no index, or one that can't be read
      4    a package that is needed is missing
      130  stopped by Ctrl-C
    """
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.serve.bit_cards import read_bit_cards
    from queryopt.runtime.serve.server import host_of, open_socket, require_packages, run

    require_packages()
    with ExitStack() as stack:
        index = stack.enter_context(HashIndex.open(index_path or default_index("qo-serve INDEX"), readonly=True))
        meanings = read_bit_cards(cards_path, index.bits) if cards_path is not None else None
        listener = stack.enter_context(open_socket(listen.host, listen.port))
        from queryopt.runtime.serve.app import create_app
        from queryopt.runtime.serve.gallery import Gallery, ServeSettings

        settings = ServeSettings(
            hosts=(*listen.hosts, host_of(listener)),
            max_upload=upload.max_upload << 20,
            max_pixels=upload.max_megapixels * 1_000_000,
            batch=hashing.batch,
        )
        hasher = _open_hasher(index, hashing, out)
        gallery = Gallery(index, hasher, settings, meanings)
        stack.callback(gallery.close)
        index.prepare()
        gallery.survey()
        interrupted = run(create_app(gallery), listener, _introduce(gallery, index, hasher, listener, out))
    out.log("stopped")
    return ExitCode.INTERRUPTED if interrupted else ExitCode.DONE


def _introduce(
    gallery: "Gallery", index: "HashIndex", hasher: "Hasher | None", listener: "socket", out: Output
) -> Callable[[], None]:
    """Say what is served, and to whom; returns what says that it is, once it answers."""
    from queryopt.runtime.serve.server import is_loopback, url_of

    url = url_of(listener)
    out.log(f"index: {display_path(index.path)} ({counted(len(index), 'picture', 'pictures')})")
    if hasher is not None and not gallery.explains:
        out.log("this model shows no attention: qo-export RUN --explain makes one that does")
    if not is_loopback(listener):
        out.warn(
            f"whoever reaches this machine can see the pictures of {display_path(index.root)} and search them: "
            "there is no password, and no encryption; docs/serve.md says how to put a proxy before it"
        )

    def ready() -> None:
        out.result({"url": url, "index": str(index.path), "images": len(index), "attention": gallery.explains})
        out.print(f"listening: {url}  (Ctrl-C stops)")

    return ready


def _open_hasher(index: "HashIndex", hashing: HasherOptions, out: Output) -> "Hasher | None":
    """The model that was asked for, else the index's own, else none: searching the index needs none."""
    from queryopt.runtime.hasher import find_model

    model = hashing.model
    if model is None:
        try:
            known = index.model_path
            model = known if known is not None and known.exists() else find_model(None)
            hasher = hashing.open(model)
        except (InputError, MissingError) as error:
            out.warn(f"no model, so no pictures can be uploaded; those of the index can be searched for ({error})")
            return None
    else:
        hasher = hashing.open(model)
    out.log(f"model: {display_path(model)} ({hasher.backend})")
    return hasher
