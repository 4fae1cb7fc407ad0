"""The five mistakes about streaming that cost most and are believed most, as questions for notebook 15.

Each choice has feedback of its own and says which notebook shows it. The right answers are measured where they are
asked: a question here says nothing that its notebook does not claim.
"""

from labserver.stage.questions import Choice, Question

__all__ = ["BLOCKING", "DONE", "END", "MISTAKES", "ORIGIN", "QUEUE"]

_POOL = ("12 Forty threads, used up", "12_what_blocks_what.ipynb#Break-it:-forty-threads,-used-up")
_LOOP = ("12 Sleep in an async generator", "12_what_blocks_what.ipynb#Break-it:-sleep-in-an-async-generator")
_WHERE = ("12 What runs where", "12_what_blocks_what.ipynb#What-runs-where")
_ORIGIN = ("02 Any page may connect", "02_websocket_auth.ipynb#Break-it:-any-page-may-connect")
_OWN_CHECK = ("02 Check the origin yourself", "02_websocket_auth.ipynb#Mend-it:-check-the-origin-yourself")
_CORS = ("05 Pages from elsewhere", "05_server_sent_events.ipynb#Pages-from-elsewhere")
_HALF = ("05 Half a feed that looks whole", "05_server_sent_events.ipynb#Break-it:-half-a-feed-that-looks-whole")
_MARKER = ("07 No end marker", "07_ndjson.ipynb#Break-it:-no-end-marker")
_LENGTH = ("08 A file that is not there yet", "08_stream_files.ipynb#A-file-that-is-not-there-yet")
_QUEUE = ("10 A queue ahead of the yield", "10_backpressure.ipynb#Break-it:-a-queue-ahead-of-the-yield")
_LIMIT = ("10 A limit", "10_backpressure.ipynb#Mend-it:-a-limit")
_OUTBOX = ("03 An outbox for each", "03_connection_manager.ipynb#Mend-it:-an-outbox-and-a-writer-for-each")
_AGAIN = (
    "06 A stream that is done, and starts again",
    "06_sse_resume.ipynb#Break-it:-a-stream-that-is-done,-and-starts-again",
)
_GIVES_UP = ("05 When EventSource gives up", "05_server_sent_events.ipynb#When-EventSource-gives-up")

BLOCKING = Question(
    "A stream waits with time.sleep between two chunks. In which form does everyone else wait as well?",
    [
        Choice(
            "def stream(): a plain generator",
            "It runs in a thread of the pool, so the loop stays free. It costs one of 40 threads while it waits.",
            _POOL,
        ),
        Choice(
            "async def stream(): an async generator",
            "It runs on the loop itself, and time.sleep keeps the loop. The word async makes it worse, not better.",
            _LOOP,
        ),
        Choice(
            "in both",
            "One of them runs in a thread, where it keeps nobody. Which one does not?",
            _WHERE,
        ),
        Choice(
            "in neither: the server has threads for that",
            "It has threads for one of the two forms. The other one runs on the loop, with everyone else.",
            _WHERE,
        ),
    ],
    answer="b",
)

ORIGIN = Question(
    "Your app has CORSMiddleware with an empty allow-list. A page of another site opens a WebSocket to it. And then?",
    [
        Choice(
            "the browser blocks it, as CORS says",
            "CORS is about answers to fetch and EventSource. No browser asks for permission before a WebSocket.",
            _CORS,
        ),
        Choice(
            "the middleware refuses it with a 403",
            "CORSMiddleware looks at HTTP requests alone. A handshake passes it by.",
            _ORIGIN,
        ),
        Choice(
            "it connects and reads",
            "The browser sends the page's Origin and connects. The server has to look at it, or nobody does.",
            _OWN_CHECK,
        ),
    ],
    answer="c",
)

END = Question(
    "A client has read a streamed body to its end, without an error. What does it know?",
    [
        Choice(
            "it has everything: a stream that breaks raises an error",
            "Some do. In other forms the server's own framework ends a broken stream as cleanly as a whole one.",
            _HALF,
        ),
        Choice(
            "the source is at its end, but the length may be wrong",
            "A streamed body has no length. Its chunks end with an empty one, which says nothing of the source.",
            _LENGTH,
        ),
        Choice(
            "that the body has ended, and no more",
            "Whether it is complete is for the stream itself to say: by a last record, in-band.",
            _MARKER,
        ),
    ],
    answer="c",
)

QUEUE = Question(
    "Each client has an asyncio.Queue(), filled by put_nowait. One client stops reading. What bounds its queue?",
    [
        Choice(
            "TCP: its buffers fill up, and the publisher waits",
            "The writer waits. The publisher puts into the queue, and the queue is not TCP's.",
            _QUEUE,
        ),
        Choice(
            "the queue's own default limit",
            "The default of maxsize is 0, and that means: none.",
            _LIMIT,
        ),
        Choice(
            "nothing",
            "It grows until the client is gone or the memory is. Give it a limit, and decide what happens there.",
            _OUTBOX,
        ),
    ],
    answer="c",
)

DONE = Question(
    "The server sends event: done and ends the body. The page's EventSource is left alone. And then?",
    [
        Choice(
            "it is over: done means done",
            "An event's name means nothing to the browser, whatever it is. The body has ended, and on that it acts.",
            _AGAIN,
        ),
        Choice(
            "it connects again, and the work is done again",
            "And again after that, until the page closes it or the server answers 204.",
            _AGAIN,
        ),
        Choice(
            "it gets an error and gives up",
            "It gets an error event, but it gives up only after a status that is not 200, or another media type.",
            _GIVES_UP,
        ),
    ],
    answer="b",
)

MISTAKES = (BLOCKING, ORIGIN, END, QUEUE, DONE)
