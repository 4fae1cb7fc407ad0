"""`labserver room` as its users meet it: a hundred participants, a killed process, and the board in Chromium."""

import asyncio
import re
import subprocess
import sys
import threading
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import pytest
from playwright.async_api import async_playwright, expect
from simulated import DEADLINE, EXERCISE, a_verdict, until

from labserver.school.room.outbox import Outbox
from labserver.school.room.report import Address, Sender
from labserver.school.room.store import Store

PEOPLE, TRIES = 100, 2
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server")
EVIL = "<img src=x onerror=alert(1)>, /\\ 😀 'x'"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")


@asynccontextmanager
async def board(chromium, room, **options):
    """The board of a room, open and live in a browser; any error of its script fails the test."""
    errors = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            page = await browser.new_page(**options)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: errors.append(dialog.message))
            await page.goto(f"{room.url}/#{room.board_key}")
            await expect(page.locator("#state")).to_have_text("live", timeout=DEADLINE * 1000)
            yield page
        finally:
            await browser.close()
    assert errors == []


def cookie_of(room):
    answer = httpx.post(f"{room.url}/key", json={"key": room.board_key}, trust_env=False, timeout=DEADLINE)
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def read_feed(room, last, *, after=None):
    """Return the numbers of a stream's verdicts up to the number `last`."""
    text, headers = "", cookie_of(room) | ({"Last-Event-ID": after} if after else {})
    with httpx.stream("GET", f"{room.url}/feed", headers=headers, trust_env=False, timeout=DEADLINE) as answer:
        for chunk in answer.iter_text():
            text += chunk
            if re.search(rf"^id: \w+-{last}$\n^data", text, re.M):
                break
    return [int(number) for number in re.findall(r"^id: \w+-(\d+)$\n^data", text, re.M)]


def participants(room, tmp_path):
    """A hundred people, each with an outbox and a sender of their own: what `hand_over` makes in each kernel."""
    address = Address(room.url, room.report_key)
    outboxes = [Outbox(tmp_path / "homes" / str(number)) for number in range(PEOPLE)]
    return [(f"p{at:03}", each, Sender(address, each, first_pause=0.2)) for at, each in enumerate(outboxes)]


def check_all(people, attempt):
    """Everybody's check number `attempt` ends at about the same time; return the verdicts."""
    sent = []
    for name, outbox, sender in people:
        solved = attempt == TRIES
        verdict = a_verdict(name, verdict="solved", points=100, failed=[]) if solved else a_verdict(name)
        outbox.put(verdict)
        sender.send(verdict.id, lambda sentence: None)
        sent.append(verdict)
    return sent


@pytest.mark.timeout(300)
async def test_a_hundred_participants_and_a_killed_server_make_every_verdict_once(chromium, room, tmp_path):
    """The board stays open while the room is killed amid their reports and started again on its port and file."""
    first = room()
    people = participants(first, tmp_path)
    async with board(chromium, first) as page:
        sent = check_all(people, 1)
        await expect(page.locator("#people tr").nth(9)).to_be_visible(timeout=DEADLINE * 1000)
        sent += await asyncio.to_thread(check_all, people, 2)
        first.kill()
        await expect(page.locator("#state")).to_have_class("away", timeout=DEADLINE * 1000)
        waiting = sum(len(list(outbox.waiting())) for _, outbox, _ in people)
        second = await asyncio.to_thread(room, port=first.port)
        assert (second.board_key, second.report_key) == (first.board_key, first.report_key)
        for _, outbox, sender in people:
            await asyncio.to_thread(until, lambda sender=sender: sender.join(0.1), "everything is sent")
            assert list(outbox.waiting()) == []

        total = PEOPLE * TRIES
        await expect(page.locator("#sum")).to_have_text(f"{total} verdicts, {PEOPLE} people", timeout=DEADLINE * 1000)
        await expect(page.locator("#state")).to_have_text("live")
        names = await page.locator("#people th").all_inner_texts()
        assert names == [name for name, _, _ in people]
        tries = await page.locator("#people small").all_inner_texts()
        assert Counter(tries) == {f"\N{MULTIPLICATION SIGN}{TRIES}": PEOPLE}
        assert await page.locator(f"#solved-{EXERCISE}").inner_text() == f"● {PEOPLE}"

    assert waiting, "the kill came before everything had arrived"
    everything = read_feed(second, total)
    assert everything == list(range(1, total + 1))
    epoch = cookie_of(second)["Cookie"].partition("=")[0].rpartition("_")[2]
    assert read_feed(second, total, after=f"{epoch}-117") == everything[117:]
    second.kill()
    assert sorted(verdict.id for _, verdict in kept(tmp_path)) == sorted(verdict.id for verdict in sent)


def kept(tmp_path):
    store = Store(tmp_path / "room.db")
    try:
        return store.verdicts()
    finally:
        store.close()


def report(room, *verdicts):
    headers = {"Authorization": f"Bearer {room.report_key}"}
    with httpx.Client(base_url=room.url, headers=headers, trust_env=False, timeout=DEADLINE) as client:
        for verdict in verdicts:
            assert client.post("/verdicts", json=verdict.model_dump()).status_code == 201


async def test_the_board_says_who_is_stuck_and_what_to_say(chromium, room):
    one = room()
    report(one, *[a_verdict(EVIL, misconception="tutorial_feed", failed=["done"]) for _ in range(4)])
    report(one, a_verdict("ben", misconception="tutorial_feed", failed=["done", "error"]))
    report(one, a_verdict("cho", verdict="solved", points=100, failed=[], misconception="constructor"))
    report(one, a_verdict("dan", failed=["toString", "__proto__"], misconception="constructor"))
    async with board(chromium, one, viewport={"width": 800, "height": 600}) as page:
        await expect(page.locator("#people tr")).to_have_count(4, timeout=DEADLINE * 1000)
        assert await page.locator("#stuck li").all_inner_texts() == [f"{EVIL} 05, 3 tries"]
        fails = await page.locator("#fails li").all_inner_texts()
        assert fails[0].startswith("05: 2 people")
        assert "the body ends when the source does" in fails[0], "what is known of that mistake"
        assert await page.locator(".stuck").count() == 1
        assert await page.locator("img").count() == 0, "a name is text"
        assert await page.evaluate("document.documentElement.scrollWidth <= 800")
        assert page.url == f"{one.url}/", "the key has gone from the address on the screen"

        report(one, a_verdict(EVIL, verdict="solved", points=100, failed=[]))
        await expect(page.locator("#stuck li")).to_have_count(0, timeout=DEADLINE * 1000)
        assert (await page.locator("#fails li").all_inner_texts())[0].startswith("05: 1 person")


async def test_a_board_with_a_wrong_key_says_what_to_do(chromium, room):
    one = room()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            page = await browser.new_page()
            for wrong, says in ((f"#{one.report_key}", "This key does not open"), ("", "This page has no key")):
                await page.goto("about:blank")
                await page.goto(f"{one.url}/{wrong}")
                await expect(page.locator("#state")).to_contain_text(says, timeout=DEADLINE * 1000)
        finally:
            await browser.close()


@posix_only
def test_sigterm_ends_it_though_boards_are_open_and_no_key_is_logged(room):
    one = room()
    opened, told = threading.Event(), []

    def watch():
        with httpx.stream(
            "GET", f"{one.url}/feed", headers=cookie_of(one), trust_env=False, timeout=DEADLINE
        ) as answer:
            for chunk in answer.iter_text():
                told.append(chunk)
                opened.set()

    boards = [threading.Thread(target=watch) for _ in range(3)]
    for thread in boards:
        thread.start()
    assert opened.wait(DEADLINE)
    report(one, a_verdict())
    banner = one.said
    one.terminate()
    for thread in boards:
        thread.join(DEADLINE)
    assert "".join(told).count("event: drain") == "".join(told).count("event: room") >= 1
    assert one.said == banner, "nothing is logged in a room where all is well"


@pytest.mark.parametrize(
    ("host", "says"), [("127.0.0.1", "Only this machine reaches it"), ("0.0.0.0", "LABSERVER_ROOM=http://")]
)
def test_it_says_whether_the_room_can_reach_it(room, host, says):
    said = room("--host", host).said
    assert says in said
    assert ("Only this machine" in said) == (host == "127.0.0.1")
    assert "0.0.0.0:" not in said


def test_started_again_it_says_what_it_knows(room):
    one = room()
    report(one, a_verdict("ana"), a_verdict("ben"), a_verdict("ana"))
    one.kill()
    assert "3 verdicts of 2 people are there; another --keep begins anew" in room().said


def test_a_port_in_use_is_one_sentence(room, tmp_path):

    one = room()
    command = [sys.executable, "-m", "labserver", "room", "--port", str(one.port), "--keep", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"Port {one.port} on 127.0.0.1 is in use" in done.stderr
    assert not (tmp_path / "other").exists()
