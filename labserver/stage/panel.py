"""A live panel: a small page with a real `EventSource` or `WebSocket`, served by the live server and shown in a cell.

The page belongs to its server and stands at `/_panel/<key>/` beside the app's own routes, so the addresses in it are
relative and work directly, through jupyter-server-proxy and under any prefix. Who reads the notebook without trusting
or running it sees a picture or a sentence; what is compared holds no port.
"""

from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router

from labserver.errors import LabError
from labserver.stage.rich import Html, Picture
from labserver.stage.server import LiveServer

__all__ = ["page"]

PATIENCE = 5.0  # seconds a server may take to add a page; one that takes longer is blocked by its own code

# The probe of a notebook on another port of this machine has to be allowed to read the answer.
HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store"}

# The colours are those of the lab's pictures. `[data-theme]` is what the notebook says, which may differ from the
# browser's preference; it comes with the address and, when the theme is changed later, as a message. After "Run All"
# the last cell has stopped the server under a page that is still there: a click asks whether it has, and says so.
DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<base href="../../">
<title>{title}</title>
<style>
:root {{ color-scheme: light; --card: #fbfbfa; --edge: #d9dde2; --mute: #59616b; --ink: #1f2429; --hot: #b8390e }}
:root[data-theme=dark] {{
  color-scheme: dark; --card: #16191d; --edge: #3a4149; --mute: #a3acb6; --ink: #e6e9ec; --hot: #ff9466
}}
body {{
  margin: 16px 24px; background: var(--card); color: var(--ink);
  font: 13px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif;
}}
h1 {{ margin: 0 0 12px; font-size: 16px; font-weight: 600 }}
button, input, select, textarea {{ font: inherit }}
output {{ color: var(--mute) }}
.ended {{ color: var(--hot) }}
code, pre, li {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
</style>
<script>
(() => {{
  const use = theme => {{ document.documentElement.dataset.theme = theme === "dark" ? "dark" : "light"; }};
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  use(location.hash.slice(1) || preferred);
  addEventListener("message", event => {{ if (event.data?.labTheme) use(event.data.labTheme); }});
  const check = async () => {{
    const there = await fetch(location.href, {{ cache: "no-store" }}).then(answer => answer.ok, () => false);
    document.querySelector(".ended").hidden = there;
  }};
  addEventListener("click", check, true);
}})();
</script>
</head>
<body>
<h1>{title}</h1>
<p class="ended" role="status" hidden>The server of this panel has stopped: run the cells above and this one again.</p>
{html}
</body>
</html>
"""

# Asks before it embeds: a frame whose server is gone would show the browser's own error page, and a port may meanwhile
# be another server's. The key in the path is made from the content, so a wrong server answers 404.
SCRIPT = """
(box => {
  const { url, port, path, title, height } = box.dataset;
  const config = document.getElementById("jupyter-config-data");
  const addresses = [];
  if (["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) addresses.push(url + "/" + path);
  if (config) {
    const base = new URL(JSON.parse(config.textContent).baseUrl, location.href).href.replace(/[/]*$/, "/");
    addresses.push(base + "proxy/" + port + "/" + path);
  }
  const still = [...box.childNodes];
  const answers = address =>
    fetch(address, { cache: "no-store", signal: AbortSignal.timeout(5000) }).then(answer => answer.ok, () => false);
  const find = async () => {
    for (const address of addresses) if (await answers(address)) return address;
  };
  const theme = () => {
    const light = document.body.dataset.jpThemeLight;
    return (light ? light === "false" : matchMedia("(prefers-color-scheme: dark)").matches) ? "dark" : "light";
  };
  const silent = () => {
    const words = document.createElement("p");
    words.setAttribute("role", "status");
    words.textContent = "The server of this panel does not answer: run the cells above and this one again.";
    box.replaceChildren(...still, words);
  };
  const embed = address => {
    const frame = document.createElement("iframe");
    let loads = 0;
    frame.title = title;
    frame.style.cssText = "display:block;box-sizing:border-box;width:100%;max-width:840px;border:1px solid;"
      + "border-color:var(--jp-border-color1,#a3acb6);border-radius:4px;height:" + height + "px";
    frame.src = address + "#" + theme();
    const follow = () => frame.contentWindow?.postMessage({ labTheme: theme() }, new URL(address).origin);
    frame.addEventListener("load", async () => {  // again when the notebook moved it: the server may be gone by then
      if (loads++ && !(await answers(address))) return frame.isConnected && silent();
      follow();
    });
    new MutationObserver(follow).observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
    box.replaceChildren(frame);
  };
  if (addresses.length) find().then(address => address ? embed(address) : silent());
})(document.currentScript.previousElementSibling);
"""


def page(html: str, live: LiveServer, *, title: str, picture: Picture | None = None, height: int = 240) -> Html:
    """Show a page that the server itself serves, live in this cell.

    Args:
        html: what stands in the page's body, scripts included. Relative addresses are the server's:
            `new EventSource("events")`, `new WebSocket("ws")`, `fetch("online")`.
        live: the server, started with `start` and not as a child process. It keeps one page of each title: a cell
            that runs again replaces its own. The page is gone with this server, also when its app is served again.
        title: a line that says what the panel shows; its heading and, for a screen reader, its name.
        picture: what a reader sees who does not run or trust the notebook; without one, a sentence.
        height: of the panel, CSS pixels.

    Raises:
        LabError: the server is stopped, blocked, or a child process, or its app can't take another route.
    """
    path = _mount(live, title, DOCUMENT.format(title=escape(title), html=html))
    data = {"url": live.url, "port": live.port, "path": path, "title": title, "height": height}
    attributes = "".join(f' data-{name}="{escape(str(value))}"' for name, value in data.items())
    box = f"<div{attributes}>{_still(title, picture)}</div>"
    twin = f"live panel: {title}\n{picture.twin if picture else ''}"
    return Html(f"{box}<script>{SCRIPT}</script>", twin.rstrip("\n"))


def _still(title: str, picture: Picture | None) -> str:
    words = f"A live panel stands here while this notebook runs: {escape(title)}."
    return picture.img() if picture else f"<p>{words}</p>"


@dataclass(frozen=True, slots=True)
class _Page:
    live: LiveServer
    key: str
    document: str


class _Panels(Route):
    """The one route for all panels of an app; touched on the server's loop alone."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, str], _Page] = {}
        super().__init__("/_panel/{key}/", self._answer, include_in_schema=False)

    def put(self, title: str, new: _Page) -> None:
        """Show a page, in place of the one of its title on its server; forget those of stopped servers."""
        self._pages = {name: old for name, old in self._pages.items() if old.live.alive}
        self._pages[new.live.name, title] = new

    async def _answer(self, request: Request) -> Response:
        key = request.path_params["key"]
        found = (page for page in self._pages.values() if page.key == key and page.live.alive)
        if (shown := next(found, None)) is None:
            return PlainTextResponse("There is no such panel (any more): run its cell again.", 404, HEADERS)
        return HTMLResponse(shown.document, headers=HEADERS)


def _mount(live: LiveServer, title: str, document: str) -> str:
    """Add the page to the running server and return its path, relative to the server's root."""
    if not live.alive:
        raise LabError(f"The server {live.name!r} is stopped: run the cell that starts it, then this one.")
    key = sha256(document.encode()).hexdigest()[:16]
    routes = _routes(live)
    _on_loop(live, lambda: _panels(routes).put(title, _Page(live, key, document)))
    return f"_panel/{key}/"


def _on_loop(live: LiveServer, change: Callable[[], None]) -> None:
    """Make a change between two requests of the server, and wait until it is made."""

    async def make() -> None:
        change()

    try:
        live.submit(make()).result(PATIENCE)
    except FutureTimeout:
        raise LabError(
            f"The server {live.name!r} is blocked by its own code: stop it, mend what blocks its loop, start it again."
        ) from None


def _routes(live: LiveServer) -> list[BaseRoute]:
    """Return the list of routes that the server's app goes through, also where middleware is wrapped around it."""
    if live.kind != "thread":
        raise LabError(
            f"The server {live.name!r} runs in a process of its own: start it without process=True to show a panel."
        )
    app: Any = live.app
    while app is not None:
        router = getattr(app, "router", app)
        if isinstance(router, Router):
            return router.routes
        app = getattr(app, "app", None)
    raise LabError("A panel is one more route of the app: serve a FastAPI or Starlette app to show one.")


def _panels(routes: list[BaseRoute]) -> _Panels:
    for route in routes:
        if isinstance(route, _Panels):
            return route
    panels = _Panels()
    routes.insert(0, panels)  # before any route that would take every path
    return panels
