"""The last resort: what nobody caught is logged, and answered in the form of every other error.

It stands inside Starlette's own handler of the same kind, which would answer in plain text and let
the exception go on. Direct routes need neither (`direct.py`).
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritserve.service.http.answers import bug_answer


class CatchBugs:
    """Answers 500 where an exception got out of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started:
                # Too late for another status: the server cuts the answer off, and logs why.
                raise
            await bug_answer(error, scope["path"])(scope, receive, send)
