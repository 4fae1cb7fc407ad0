"""The endpoint of one server whose settings name none: started with the first request that asks for it."""

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

from fastapi import Depends, HTTPException

from labserver.errors import LabError
from labserver.settings import Settings, get_settings

if TYPE_CHECKING:
    from labserver.stage.server import InThread

__all__ = ["OwnLlm"]


class OwnLlm:
    """A server beside a server, as a context manager; in a thread of its own, to answer even to a loop that is blocked.

    It has no name among those of `start`, and its end takes none of their locks: its owner may be stopped under one.
    """

    def __init__(self) -> None:
        self._runner: InThread | None = None
        self._making = threading.Lock()
        self._over = False
        self._patience = 0.0

    def url(self, settings: Annotated[Settings, Depends(get_settings)]) -> str:
        """Return the settings' endpoint, else the own one; a dependency, a `def` because starting takes a while."""
        if settings.llm_url is not None:
            return settings.llm_url
        with self._making:
            if self._over:
                raise HTTPException(503, "the server is stopping")
            self._runner = self._runner or self._start(settings)
            host, port = self._runner.address
        return f"http://{host}:{port}"

    def __enter__(self) -> Self:
        self._over = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._making:
            self._over = True
            if self._runner is not None:
                self._runner.stop(self._patience)
                self._runner = None

    def _start(self, settings: Settings) -> "InThread":
        from labserver.stage.engine import Log
        from labserver.stage.llms.stand import IDLE, endpoint
        from labserver.stage.server import InThread

        self._patience = settings.stop_timeout
        try:
            app = endpoint(settings).app()
            runner = InThread("llm", app, Log(settings.log_records), {"timeout_keep_alive": IDLE})
            runner.launch(settings.start_timeout)
        except LabError as error:
            raise HTTPException(503, str(error)) from None
        return runner
