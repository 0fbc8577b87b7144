"""A web application on an index: a page to search with pictures and to see what bits look at, and a JSON API.

It needs queryopt's extra [serve]. `Gallery` is what it shows, without a web; `create_app` makes the ASGI application.
"""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.runtime.serve.app import create_app
    from queryopt.runtime.serve.gallery import Gallery, ServeSettings

__all__ = ["Gallery", "ServeSettings", "create_app"]

__getattr__, __dir__ = lazy_names(__name__, {"Gallery": "gallery", "ServeSettings": "gallery", "create_app": "app"})
