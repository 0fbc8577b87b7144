"""What a client is told when a request can't be answered. None of it names a path of this machine."""

__all__ = [
    "BadRequestError",
    "BusyError",
    "CutOffBodyError",
    "LargeBodyError",
    "NotFoundError",
    "RequestError",
    "SlowBodyError",
    "UnavailableError",
]


class RequestError(Exception):
    """Base: the message goes to the client, with `status` of HTTP."""

    status = 500


class BadRequestError(RequestError):
    """What the client sent is wrong."""

    status = 400


class CutOffBodyError(BadRequestError):
    """The client hung up before all of the body had come (a page that was closed)."""


class NotFoundError(RequestError):
    """There is no such thing."""

    status = 404


class SlowBodyError(RequestError):
    """The body of a request did not arrive in time."""

    status = 408


class LargeBodyError(RequestError):
    """The body of a request is larger than the server takes."""

    status = 413


class BusyError(RequestError):
    """More is asked for at once than can be done; it is worth trying again in a second."""

    status = 503


class UnavailableError(RequestError):
    """This server has not what the request needs: a model, or a model's attention."""

    status = 501
