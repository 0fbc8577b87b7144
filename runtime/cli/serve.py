"""`qo-serve`: a web page and an API that search an index."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, batch_option, common_options, device_option, threads_option
from queryopt.errors import ExitCode, InputError, MissingError
from queryopt.runtime.cli.backend import backend_option
from queryopt.runtime.cli.search import default_index
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from queryopt.runtime.hasher import Hasher
    from queryopt.runtime.index import HashIndex

__all__ = ["main"]

_DEFAULT_PORT = 8321


@click.command(cls=Command, name="qo-serve")
@click.argument("index_path", metavar="[INDEX]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="The model, for pictures that the index doesn't hold.  [default: the index's own]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=_DEFAULT_PORT, show_default=True, help="The port; 0 takes any."
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name that clients call this server by, behind a proxy, say. May be given again.",
)
@click.option(
    "--bit-cards",
    "cards_path",
    type=click.Path(path_type=Path),
    help="What each bit means: the JSON that qo-eval --bits-out writes.",
)
@click.option(
    "--max-upload", type=click.IntRange(1, 1024), default=20, show_default=True, help="MiB of a picture that is sent."
)
@click.option(
    "--max-megapixels", type=click.IntRange(1, 89), default=40, show_default=True, help="Its most pixels, in millions."
)
@device_option("cpu")
@backend_option
@batch_option(16)
@threads_option
@common_options
def main(
    index_path: Path | None,
    model: Path | None,
    host: str,
    port: int,
    hosts: tuple[str, ...],
    cards_path: Path | None,
    max_upload: int,
    max_megapixels: int,
    device: str,
    backend: str,
    batch: int,
    threads: int | None,
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
    from queryopt.runtime.serve.server import is_loopback, open_socket, require_packages, run, url_of

    require_packages()
    with ExitStack() as stack:
        index = stack.enter_context(HashIndex.open(index_path or default_index("qo-serve INDEX"), readonly=True))
        meanings = read_bit_cards(cards_path, index.bits) if cards_path is not None else None
        listener = stack.enter_context(open_socket(host, port))
        from queryopt.runtime.serve.app import create_app
        from queryopt.runtime.serve.gallery import Gallery, ServeSettings

        hasher = _open_hasher(index, model, backend, batch, threads, out)
        settings = ServeSettings(
            hosts=hosts, max_upload=max_upload << 20, max_pixels=max_megapixels * 1_000_000, batch=batch
        )
        gallery = Gallery(index, hasher, settings, meanings)
        stack.callback(gallery.close)
        index.prepare()
        gallery.survey()
        url = url_of(listener)
        out.log(f"index: {display_path(index.path)} ({counted(len(index), 'picture', 'pictures')})")
        if not gallery.explains and hasher is not None:
            out.log("this model shows no attention: qo-export --ckpt RUN --explain makes one that does")
        if not is_loopback(listener):
            out.warn(
                f"whoever reaches this machine can see the pictures of {display_path(index.root)} and search them: "
                "there is no password, and no encryption; docs/serve.md says how to put a proxy before it"
            )

        def ready() -> None:
            out.result({"url": url, "index": str(index.path), "images": len(index), "attention": gallery.explains})
            out.print(f"listening: {url}  (Ctrl-C stops)")

        interrupted = run(create_app(gallery), listener, ready)
    out.log("stopped")
    return ExitCode.INTERRUPTED if interrupted else ExitCode.DONE


def _open_hasher(
    index: "HashIndex", model: Path | None, backend: str, batch: int, threads: int | None, out: Output
) -> "Hasher | None":
    """The model that was asked for, else the index's own, else none: searching the index needs none."""
    from queryopt.runtime.hasher import Hasher, find_model

    if model is None:
        try:
            known = index.model_path
            model = known if known is not None and known.exists() else find_model(None)
            hasher = Hasher(model, backend, threads, batch)
        except (InputError, MissingError) as error:
            out.warn(f"no model, so no pictures can be uploaded; those of the index can be searched for ({error})")
            return None
    else:
        hasher = Hasher(model, backend, threads, batch)
    out.log(f"model: {display_path(model)} ({hasher.backend})")
    return hasher
