"""Can this object be served, and what did this code raise: each as one sentence for whoever wrote it."""

import traceback
from inspect import signature
from types import ModuleType
from typing import Any

__all__ = ["asgi_problem", "what_was_raised"]


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
    if not callable(value) or not _takes_three(value):
        return f"`{name}` is {_a(type(value).__name__)}: it has to be an app, for instance FastAPI()."
    return ""


def what_was_raised(error: BaseException, filename: str) -> str:
    """Return `NameError: name 'x' is not defined (line 3: x)`, the line being the last one in that file."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno}: {(error.text or '').strip()})"
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    return f"{text} (line {frames[-1].lineno}: {frames[-1].line})" if frames else text


def _takes_three(value: Any) -> bool:
    """Whether it can be called as ASGI calls: scope, receive, send."""
    try:
        signature(value).bind({}, None, None)
    except (TypeError, ValueError):
        return False
    return True


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
