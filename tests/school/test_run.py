"""Verdicts of checks: failed, unstable, timeout, never ran, error; nothing left behind. Real processes and sockets."""

import threading
import time
from contextlib import suppress
from textwrap import dedent

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from labserver import posix
from labserver.errors import LabError
from labserver.school import catalogue
from labserver.school.run import AnswerDied, run_checks, serving
from labserver.school.verdicts import Report
from labserver.settings import get_settings

APP = dedent("""
    from fastapi import FastAPI
    app = FastAPI()
    counter = iter(range(1000))

    @app.get("/n")
    async def n():
        return next(counter)
""")
HEAD = dedent("""
    import asyncio, time
    from labserver.school.checking import Failed, Misconception, points
    from labserver.school.wire import AnswerUnderTest
    TITLE, OBJECT, HINTS = "Sample", "app", ("a", "b", "c")
    MISCONCEPTIONS = {}
""")


@pytest.fixture(scope="module")
def url():
    with serving(APP, "app") as url:
        yield url


@pytest.fixture
def checks(tmp_path, monkeypatch):
    """Return a function that makes an exercise `90_sample` of the given checks."""
    monkeypatch.setattr(catalogue, "CHECKS", tmp_path)

    def make(*bodies, **marks):
        text = HEAD
        for n, body in enumerate(bodies):
            options = "".join(f", {name}={value!r}" for name, value in marks.items())
            text += (
                f"\n@points(10, hint='h'{options})\nasync def check_c{n}(answer: AnswerUnderTest):\n    '''Do it.'''\n"
            )
            text += "".join(f"    {line}\n" for line in dedent(body).strip().splitlines())
        (tmp_path / "90_sample.py").write_text(text)
        catalogue.exercise.cache_clear()
        return "90_sample"

    yield make
    catalogue.exercise.cache_clear()


@pytest.fixture
def changed(monkeypatch):
    """Return a function that sets `LABSERVER_...` variables for this test and returns the settings they make."""

    def change(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"LABSERVER_{name}", value)
        get_settings.cache_clear()
        return get_settings()

    yield change
    get_settings.cache_clear()


def verdicts(report):
    return [check.verdict for check in report.checks]


def test_passed_and_failed(checks, url):
    id = checks("await answer.get_json('/n', 'a number')", "raise Failed('this', 'that')")
    report = run_checks(url, id)
    assert verdicts(report) == ["passed", "failed"]
    assert (report.verdict, report.points, report.max_points) == ("partial", 10, 20)
    assert (report.checks[1].seen, report.checks[1].expected, report.checks[1].hint) == ("this", "that", "h")


def test_failure_inside_a_task_group_is_told(checks, url):
    body = """
        async def fail():
            raise Failed('this', 'that')
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
    """
    assert run_checks(url, checks(body)).checks[0].seen == "this"


def test_now_and_then_is_unstable(checks, url):
    body = """
        if await answer.get_json('/n', 'a number') % 2:
            raise Failed('odd', 'even')
    """
    report = run_checks(url, checks(body, repeat=4))
    assert verdicts(report) == ["unstable"]
    assert (report.checks[0].earned, report.checks[0].seen) == (0, "odd")
    assert report.checks[0].tape_svg.startswith("<svg")
    assert "GET /n" in report.checks[0].tape_text


ONCE = "import httpx\nn = httpx.get(answer.url + '/n').json()\nif n % 2 == 0: raise Failed('even', 'odd')"


def test_what_fails_once_is_unstable_when_confirmed(checks):
    id = checks(ONCE, "pass")
    with serving(APP, "app") as url:
        report = run_checks(url, id, confirm=True)
    assert verdicts(report) == ["unstable", "passed"]
    assert (report.verdict, report.points) == ("unstable", 10)


def test_what_fails_again_with_the_same_payload_is_failed(checks, url, tmp_path):
    drawn = tmp_path / "drawn"
    note = f"open({str(drawn)!r}, 'a').write(f'{{answer.random.random()}} ')\n"
    report = run_checks(url, checks(note + "raise Failed('a', 'b')", "pass"), confirm=True)
    assert verdicts(report) == ["failed", "passed"]
    assert report.verdict == "partial"
    numbers = drawn.read_text().split()
    assert len(numbers) == 2
    assert len(set(numbers)) == 1


def test_where_nothing_passes_nothing_is_confirmed(checks, url, tmp_path):
    report = run_checks(
        url, checks(f"open({str(tmp_path / 'n')!r}, 'a').write('x')\nraise Failed('a', 'b')"), confirm=True
    )
    assert verdicts(report) == ["failed"]
    assert (tmp_path / "n").read_text() == "x"


def test_one_check_alone(checks, url):
    report = run_checks(url, checks("pass", "raise Failed('a', 'b')"), only="c1")
    assert [(check.name, check.verdict) for check in report.checks] == [("c1", "failed")]
    with pytest.raises(LabError, match="no check 'c7': choose one of c0, c1"):
        run_checks(url, "90_sample", only="c7")


HIDDEN = dedent('''
    from labserver.school.catalogue import checks_module
    from labserver.school.checking import Failed, Misconception, guards

    VISIBLE = checks_module("90_sample")
    MISCONCEPTIONS = {"typed_in": Misconception.of("You typed it in.", {"other_numbers"}, "a#b")}


    @guards("c0", hint="Try others.")
    async def check_other_numbers(answer):
        """Any number."""
        assert VISIBLE.TITLE == "Sample"
        raise Failed("4", "5")
''')


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """Return a function that writes a file of hidden checks for the sample."""
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)

    def write(text=HIDDEN):
        (tmp_path / "solutions" / "hidden").mkdir(parents=True)
        (tmp_path / "solutions" / "hidden" / "90_sample.py").write_text(text)
        catalogue.hidden.cache_clear()

    yield write
    catalogue.hidden.cache_clear()


def test_a_hidden_check_takes_the_points_of_the_one_it_guards(checks, hidden, url):
    id = checks("pass", "pass")
    hidden(HIDDEN.replace('checks_module("90_sample")', 'type("M", (), {"TITLE": "Sample"})'))
    visible_alone = run_checks(url, id)
    assert visible_alone.solved
    assert visible_alone.hidden == ()
    report = run_checks(url, id, hidden=True)
    assert (report.verdict, report.points, report.max_points) == ("partial", 10, 20)
    caught = report.checks[0]
    assert (caught.name, caught.verdict, caught.seen, caught.guard) == ("c0", "failed", "4", "other_numbers")
    assert report.misconception == "typed_in"
    assert [(check.name, check.verdict) for check in report.hidden] == [("other_numbers", "failed")]
    assert Report.from_json(report.to_json()) == report


def test_a_check_that_failed_by_itself_shows_itself(checks, hidden, url):
    id = checks("raise Failed('a', 'b')", "pass")
    hidden(HIDDEN.replace('checks_module("90_sample")', 'type("M", (), {"TITLE": "Sample"})'))
    report = run_checks(url, id, hidden=True)
    assert (report.checks[0].seen, report.checks[0].guard, report.misconception) == ("a", "", "")


def test_a_hidden_check_that_guards_nothing_is_told(checks, hidden, url):
    id = checks("pass")
    hidden(HIDDEN.replace('"c0"', '"c9"'))
    with pytest.raises(LabError, match="'other_numbers' needs a name of its own and one to guard"):
        run_checks(url, id, hidden=True)


def test_always_wrong_is_failed_and_not_repeated_for_ever(checks, url):
    report = run_checks(url, checks("raise Failed(str(answer.random.random()), '')", repeat=50))
    assert verdicts(report) == ["failed"]
    assert report.checks[0].seconds < 5


def test_a_check_past_its_own_deadline(checks, url):
    report = run_checks(url, checks("await asyncio.sleep(60)", "pass", deadline=0.2))
    assert verdicts(report) == ["timeout", "passed"]


def test_a_check_that_blocks_ends_the_run(checks, url):
    report = run_checks(url, checks("pass", "time.sleep(60)", "pass"), timeout=4)
    assert verdicts(report) == ["passed", "timeout", "never ran"]
    assert report.verdict == "partial"


def test_a_broken_check_is_our_fault(checks, url):
    report = run_checks(url, checks("pass", "1 / 0"))
    assert (report.verdict, verdicts(report)) == ("not checked", ["passed", "error"])
    assert "no fault of the answer: c1: the check itself broke: ZeroDivisionError" in report.reason


def test_a_file_that_can_t_be_loaded_is_our_fault(checks, url):
    id = checks("pass")
    known = catalogue.exercise(id)
    known.check_file.write_text("import nothing_of_that_name")
    report = run_checks(url, id)
    assert (report.verdict, report.points) == ("not checked", 0)
    assert "No module named 'nothing_of_that_name'" in report.reason


def test_same_seed_same_payloads_and_other_seeds_others(checks, url):
    id = checks("raise Failed(str(answer.random.random()), '')")
    first, other = run_checks(url, id), run_checks(url, id)
    assert run_checks(url, id, seed=first.seed).checks[0].seen == first.checks[0].seen
    assert first.seed != other.seed
    assert first.checks[0].seen != other.checks[0].seen


def test_a_dead_server_is_a_failure(checks):
    report = run_checks("http://127.0.0.1:9", checks("await answer.get_json('/n', 'a number')"))
    assert verdicts(report) == ["failed"]


def test_unknown_exercise():
    with pytest.raises(LabError, match="There is no exercise"):
        run_checks("http://127.0.0.1:9", "77_none")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = ", "SyntaxError: invalid syntax (line 1: x =)"),
        ("await x", "SyntaxError: 'await' outside function (line 1: await x)"),
        ("a = 1\nb = c", "NameError: name 'c' is not defined (line 2: b = c)"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os\nos._exit(3)", "ended by itself (exit code 3)"),
        ("a = 1", "does not define `app`"),
        ("app = ...", "`app` is still `...`"),
        ("app = None", "`app` is None"),
        ("app = 3", "`app` is an int"),
        ("from fastapi import FastAPI as app", "`app` is the class FastAPI: pass an instance"),
        ("from fastapi import APIRouter\napp = APIRouter()", "an APIRouter: include it"),
        ("def app(): pass", "`app` is a function"),
        (
            "from fastapi import FastAPI\nfrom contextlib import asynccontextmanager\n@asynccontextmanager\n"
            "async def life(app):\n    raise RuntimeError('no database')\n    yield\napp = FastAPI(lifespan=life)",
            "start-up failed: RuntimeError: no database",
        ),
    ],
)
def test_an_answer_that_can_t_be_served_is_one_sentence(source, says):
    with pytest.raises(AnswerDied) as caught, serving(source, "app"):
        pass
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_answer_that_does_not_start_is_given_up():
    with pytest.raises(AnswerDied, match="within 2 s"), serving("import time\ntime.sleep(60)", "app", timeout=2):
        pass


def test_an_answer_that_calls_the_notebook_s_functions_is_served():
    tail = "\nfrom labserver.school import begin, check\nbegin('01_websocket_basics')\ncheck(app)\n"
    with serving(APP + tail, "app") as url:
        assert url.startswith("http://127.0.0.1:")


def test_interrupted_in_the_middle_leaves_nothing(checks, url, tmp_path, monkeypatch):
    psutil = pytest.importorskip("psutil")
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    timer = threading.Timer(2.0, lambda: __import__("_thread").interrupt_main())
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_checks(url, checks("await asyncio.sleep(60)", deadline=60.0), timeout=50)
    finally:
        timer.cancel()
    assert {child.pid for child in me.children()} <= before


ECHO = """
from fastapi import FastAPI, WebSocket
app = FastAPI()

@app.websocket("/ws")
async def echo(websocket: WebSocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)
"""


def test_an_answer_has_the_lab_s_limit_of_a_message(changed):
    settings = changed(MESSAGE_MAX_BYTES="2000")
    with serving(ECHO, "app") as url, connect(url.replace("http", "ws") + "/ws", compression=None) as client:
        client.send("x" * settings.message_max_bytes)
        assert len(client.recv(5)) == 2000
        client.send("x" * (settings.message_max_bytes + 1))
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(5)
    assert caught.value.rcvd.code == 1009


def test_deadlines_are_settings(checks, url, changed):
    changed(CHECKS_TIMEOUT="2", ANSWER_START_TIMEOUT="1")
    assert verdicts(run_checks(url, checks("time.sleep(60)"))) == ["timeout"]
    with pytest.raises(AnswerDied, match="within 1 s"), serving("import time\ntime.sleep(60)", "app"):
        pass


STARTS_ANOTHER = """
import os, subprocess, sys
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session={apart})
with open({note!r}, "w") as file:
    file.write(str(other.pid))
"""


@pytest.mark.skipif(not posix.available(), reason="needs process groups")
@pytest.mark.parametrize(("apart", "end"), [(False, APP), (True, APP), (False, "os._exit(3)")])
def test_what_an_answer_started_ends_with_it(apart, end, tmp_path):
    note = tmp_path / "pid"
    with suppress(AnswerDied), serving(STARTS_ANOTHER.format(apart=apart, note=str(note)) + end, "app"):
        pass
    other = int(note.read_text())
    ends = time.monotonic() + 5
    try:
        while any(process.pid == other and process.state != "Z" for process in posix.processes()):
            assert time.monotonic() < ends, "it still runs"
            time.sleep(0.01)
    finally:
        posix.kill(other)
