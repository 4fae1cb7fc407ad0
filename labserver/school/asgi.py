"""Can this object be served, and what did this code raise: each as one sentence for whoever wrote it.

An answer is an app, or it is a client, which is served by an app that runs it (`client_host`).
"""

import inspect
import traceback
from inspect import signature
from types import ModuleType
from typing import Any

__all__ = ["CLIENT", "answer_problem", "app_of", "asgi_problem", "client_problem", "what_was_raised"]

CLIENT = "follow"
"""What an answer is called that is a client; all others are apps."""


def answer_problem(value: Any, name: str) -> str:
    """Return one sentence on why the object of that name is no answer, or ""."""
    return client_problem(value, name) if name == CLIENT else asgi_problem(value, name)


def app_of(value: Any, name: str) -> Any:
    """Return the ASGI app to serve for an answer in which `answer_problem` finds nothing."""
    if name != CLIENT:
        return value
    from labserver.school.client_host import client_app

    return client_app(value)


def asgi_problem(value: Any, name: str = "app") -> str:
    """Return one sentence on why this object cannot be served, or ""."""
    if value is None:
        return f"`{name}` is None: run your answer cell, which has to define it, and pass the app itself."
    if value is Ellipsis:
        return f"`{name}` is still `...`: write your answer in its place."
    if isinstance(value, type):
        return f"`{name}` is the class {value.__name__}: pass an instance, for instance {value.__name__}()."
    if isinstance(value, ModuleType):
        return f"`{name}` is a module: pass the FastAPI app that it defines."
    if type(value).__name__ == "APIRouter":
        return f"`{name}` is an APIRouter: include it in a FastAPI() app and pass that app."
    if not callable(value) or not _takes(value, {}, None, None):
        return f"`{name}` is {_a(type(value).__name__)}: it has to be an app, for instance FastAPI()."
    return ""


def client_problem(value: Any, name: str = CLIENT) -> str:
    """Return one sentence on why this object cannot be run as a client, or ""."""
    should = f"it has to be an async generator function, `async def {name}(client, url)` with a `yield` in it"
    if value is None:
        return f"`{name}` is None: run your answer cell, which has to define it, and pass the function itself."
    if value is Ellipsis:
        return f"`{name}` is still `...`: write your answer in its place."
    if inspect.iscoroutine(value) or inspect.isasyncgen(value):
        return f"`{name}` was called already: pass the function itself, without parentheses behind it."
    if inspect.iscoroutinefunction(value):
        return f"`{name}` never yields: {should}."
    if not inspect.isasyncgenfunction(value):
        kind = "a function without `async`" if inspect.isfunction(value) else _a(type(value).__name__)
        return f"`{name}` is {kind}: {should}."
    if not _takes(value, None, ""):
        return f"`{name}{signature(value)}` can't be called as `{name}(client, url)`: take these two arguments."
    return ""


def what_was_raised(error: BaseException, filename: str) -> str:
    """Return `NameError: name 'x' is not defined (line 3: x)`, the line being the last one in that file."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno}: {(error.text or '').strip()})"
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return f"{text} (line {frames[-1].lineno}: {frames[-1].line})" if frames else text


def _takes(value: Any, *arguments: Any) -> bool:
    """Whether it can be called with these: an app as ASGI calls it, with scope, receive and send."""
    try:
        signature(value).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
