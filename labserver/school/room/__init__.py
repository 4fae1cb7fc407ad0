"""The room: a board on which an instructor sees how far everybody is, while it happens.

    check(app) -> report -> outbox -> POST /verdicts -> store -> feed -> SSE -> the board's page

`report` and `outbox` run in a participant's kernel; `store`, `feed` and `app` in `labserver room`; `verdict` is what
goes over the wire between the two. A participant's key lets them report and nothing else; the board has a key of its
own.
"""
