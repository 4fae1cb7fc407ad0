"""Plain pages in a real Chromium, and what their scripts can do: open a WebSocket, an EventSource, fetch.

Pages come from real servers on this machine. `*.example` leads to it in the browser, so that a page can be of another
site and not only of another port.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.async_api import Browser, Page, async_playwright

__all__ = ["FETCH", "LOGIN", "OPEN", "READ_EVENTS", "blank_app", "chromium_at", "page_of"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-proxy-server",
    "--host-resolver-rules=MAP *.example 127.0.0.1",
)

#: [url, subprotocols or null]: connect, read one message, close; what happened, and the close code.
OPEN = """([url, protocols]) => new Promise((done) => {
  const got = {events: [], messages: [], protocol: null};
  const socket = protocols ? new WebSocket(url, protocols) : new WebSocket(url);
  socket.onopen = () => { got.events.push("open"); got.protocol = socket.protocol; socket.send("hello"); };
  socket.onmessage = (event) => { got.messages.push(event.data); socket.close(); };
  socket.onerror = () => got.events.push("error");
  socket.onclose = (event) => { got.events.push("close"); done({...got, code: event.code, reason: event.reason}); };
})"""

#: url: the data of the first event, or null when the browser gives up.
READ_EVENTS = """(url) => new Promise((done) => {
  const source = new EventSource(url, {withCredentials: true});
  const end = (data) => { source.close(); done(data); };
  for (const name of ["message", "done", "error", "price"])
    source.addEventListener(name, (event) => { if (event.data !== undefined) end(event.data); });
  source.addEventListener("error", (event) => {
    if (event.data === undefined && source.readyState === EventSource.CLOSED) end(null);
  });
})"""

#: url: status and first bytes of the answer, or null when the page may not have it.
FETCH = """async (url) => {
  const stop = new AbortController();
  try {
    const answer = await fetch(url, {credentials: "include", signal: stop.signal});
    const {value} = answer.body ? await answer.body.getReader().read() : {};
    return `${answer.status} ${new TextDecoder().decode(value)}`;
  } catch (error) { return null; } finally { stop.abort(); }
}"""

#: url: log Ana in; her cookie is then in the browser.
LOGIN = """async (url) => {
  const headers = {"Content-Type": "application/json"};
  return (await fetch(url, {method: "POST", headers, body: JSON.stringify({user: "ana"})})).status;
}"""


def blank_app() -> FastAPI:
    """Return an app that serves one empty page, at /."""
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse("<!doctype html><title>a page</title>")

    return app


@asynccontextmanager
async def chromium_at(path: str) -> AsyncIterator[Browser]:
    """Run the Chromium at `path`."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield running
        finally:
            await running.close()


@asynccontextmanager
async def page_of(browser: Browser, url: str, **options: Any) -> AsyncIterator[Page]:
    """Open a page in a context of its own: its cookies end with it."""
    context = await browser.new_context(**options)
    try:
        page = await context.new_page()
        await page.goto(url)
        yield page
    finally:
        await context.close()
