"""The one exception that the HTTP layer answers with an error body, in the shape of OpenAI's API. Knows no fields."""

ENGINE_UNAVAILABLE = "engine_unavailable"


class RequestError(Exception):
    """A request that gets an error body instead of a result: the HTTP status, and the four fields of the body."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        error_type: str = "invalid_request_error",
        retry_after: int | None = None,
        close: bool = False,
    ) -> None:
        """`retry_after`: seconds, sent as the header of that name; `close`: the connection, after the answer."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.error_type = error_type
        self.retry_after = retry_after
        self.close = close

    def body(self) -> dict[str, object]:
        """The JSON object of the answer."""
        return {"error": {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code}}


def rate_limited(message: str, retry_after: int) -> RequestError:
    """429: too much is going on. `retry_after`: seconds."""
    return RequestError(
        message, status=429, error_type="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after
    )


def engine_unavailable(message: str) -> RequestError:
    """503: the engine has failed or is shutting down."""
    return RequestError(message, status=503, error_type="server_error", code=ENGINE_UNAVAILABLE)
