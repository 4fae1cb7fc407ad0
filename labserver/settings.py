"""The lab's settings, each once: its name, its unit, and why it has this value.

Values come from environment variables with the prefix `LABSERVER_`, else from the defaults below. Endpoints receive
them through `Depends(get_settings)`, so that one server can be given others (`start(settings=...)`); no other module
reads a setting from the environment. The limits of the machinery, settings as well, stand in `realtime/limits.py`,
which is copied without this module. A limit that is no setting is a constant in the module that keeps it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from labserver.errors import LabError
from labserver.realtime.limits import Limits

__all__ = ["Settings", "get_settings"]


class Settings(Limits, BaseSettings):
    """The lab's settings, the limits of `labserver.realtime` among them; immutable.

    `Settings(sse_interval=0.1)` sets one by argument; each other comes from the environment, as ever, else its default.
    """

    model_config = SettingsConfigDict(env_prefix="LABSERVER_", frozen=True, extra="forbid")

    llm: Literal["fake", "anthropic"] = Field(
        "fake", description="Which LLM endpoint is asked. A key in the environment changes nothing by itself."
    )
    model: str = Field("claude-sonnet-4-6", description="The model's name. No notebook names it.")
    llm_url: str | None = Field(
        None, pattern=r"^https?://[^/]", description="URL of a Messages API. Unset, the lab starts one as `llm` says."
    )
    llm_max_tokens: int = Field(
        1024, gt=0, description="Number of tokens one answer may have: two pages, and a runaway one costs 2 cents."
    )
    llm_timeout: float = Field(
        30.0, gt=0, description="Seconds an LLM may take to connect and between two events: Anthropic pings meanwhile."
    )
    llm_input_price: float = Field(
        3.0, ge=0, description="Number of dollars that `model` takes to read a million tokens, November 2026."
    )
    llm_output_price: float = Field(
        15.0, ge=0, description="Number of dollars that `model` takes to write a million tokens, November 2026."
    )
    redis_url: str | None = Field(None, description="A broker of your own; unset, the lab starts an embedded Valkey.")
    secret: SecretStr | None = Field(
        None, description="Signs tokens; 32 bytes or more (RFC 7518, 3.2). Unset, each server of the stage makes one."
    )
    origins: tuple[str, ...] = Field(
        (), description='Origins of pages that may open a WebSocket beside the server\'s own: ["https://example.com"].'
    )
    tickets_max: int = Field(
        10_000, gt=0, description="Number of tickets that wait to be used, 3 MB of them; one more drops the oldest."
    )
    prompt_ttl: float = Field(
        30.0, gt=0, description="Seconds a prompt waits for its stream: a page connects at once; a prompt is private."
    )
    prompts_max: int = Field(
        1000,
        gt=0,
        description="Number of prompts that wait for their streams, 32 MB at most; one more drops the oldest.",
    )
    auth_ways: frozenset[Literal["bearer", "cookie", "subprotocol", "first-message", "ticket", "query"]] = Field(
        frozenset({"bearer", "cookie", "subprotocol", "first-message", "ticket"}),
        description="How the service lets a token come. A query would stand in every log on the way.",
    )
    passwords: dict[str, SecretStr] = Field(
        {}, description='Who may log in to the service, and with which password: {"ana": "..."}.'
    )
    home: Path = Field(
        Path.home() / ".labserver",
        description="Folder for progress, verdicts that a room has not got yet, and rooms.",
    )
    room: SecretStr | None = Field(
        None, description="The room that checks report to, as `labserver room` prints it, with its key. Unset, none."
    )
    name: str = Field("", description="Who that room's board says you are. Unset, your login name.")
    require: str = Field("", description='"all" makes a missing real part a failure of the tests and not a skip.')

    start_timeout: float = Field(10.0, gt=0, description="Seconds a server may take to start before it is given up.")
    stop_timeout: float = Field(5.0, gt=0, description="Seconds a server may take to stop before it is abandoned.")
    log_records: int = Field(
        2000, gt=0, description="Messages, and exceptions, that a server of the stage keeps: a lesson's worth."
    )
    shutdown_grace: int = Field(
        10, ge=0, description="Seconds `serve` lets open streams end after SIGTERM: uvicorn's default waits for ever."
    )
    answer_start_timeout: float = Field(
        30.0, gt=0, description="Seconds until an exercise's answer serves: importing an SDK takes 3, when busy 15."
    )
    answer_memory_bytes: int = Field(
        1 << 30, gt=0, description="Bytes of memory that a graded answer may use: one with FastAPI takes 60 MiB."
    )
    answer_tasks: int = Field(
        256, gt=0, description="Number of processes and threads that a graded answer may run: sync endpoints make 40."
    )
    checks_timeout: float = Field(
        60.0, gt=0, description="Seconds for all checks of one exercise: a right answer takes 3, one that hangs 40."
    )
    tape_max_bytes: int = Field(
        16 << 20, gt=0, description="Bytes one tape keeps; what passes after that is forwarded and counted, not kept."
    )
    files_root: Path | None = Field(
        None, description="Folder whose files may be downloaded. Unset, the lab makes a private one with samples."
    )
    file_chunk_bytes: int = Field(
        1 << 20, gt=0, description="Bytes of a file read at a time: at Starlette's 64 KiB each GiB costs twice the CPU."
    )
    accel_prefix: str | None = Field(
        None,
        pattern=r"^/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)+$",
        description="Internal location, /accel/, of an nginx in front whose alias is `files_root`: it sends the files.",
    )
    relay_upstream: str | None = Field(
        None, pattern=r"^https?://[^/]", description="URL of the folder whose files are relayed: http://host/files."
    )
    relay_timeout: float = Field(
        10.0, gt=0, description="Seconds an upstream may take to connect, to answer, and between two reads of its body."
    )
    outbox_messages: int = Field(
        64, gt=0, description="Messages that may wait for one client of a room: a hiccup's worth. One more: sent away."
    )
    pump_lines: int = Field(
        16, gt=0, description="Number of lines that wait between source and client: 1 MiB of the largest, per stream."
    )
    database_url: str | None = Field(
        None, description="Where the items are, for SQLAlchemy's asyncio; unset, the lab makes a small SQLite file."
    )
    database_pool_timeout: float = Field(
        30.0, gt=0, description="Seconds a request waits for a connection of the pool: SQLAlchemy's own default."
    )
    ws_silence: float = Field(
        50.0, gt=0, description="Seconds without a message after which a client counts as gone: two pings and a half."
    )
    sse_interval: float = Field(
        0.05, ge=0, description="Seconds between events of the demonstration feed: slow enough to be seen one by one."
    )
    sse_log_events: int = Field(
        1000, gt=0, description="Number of events kept for those who come back: minutes of a lively feed, and 100 kB."
    )
    sse_outbox_events: int = Field(
        100, gt=0, description="Number of events that wait for one slow reader; beyond, it is sent away and resumes."
    )
    sse_epoch: str | None = Field(
        None,
        pattern="^[0-9a-z]{1,16}$",
        description="Names the log's life in each SSE id. Unset, each start draws one; notebooks set it.",
    )
    feed_log_records: int = Field(
        1000, gt=0, description="Number of quotes kept for who comes back or reads slowly: minutes of a feed, 200 kB."
    )
    feed_heartbeat: float = Field(
        15.0, gt=0, description="Seconds of silence before a heartbeat record: proxies hang up after 60."
    )
    feed_first_id: int | None = Field(
        None,
        ge=1,
        le=2**52,
        description="Id of a server's first quote. Unset, its start in ms: below 1,000 a second no id comes twice.",
    )
    meter_seconds: float = Field(
        0.5, gt=0, description="Seconds a reading blocks its thread: as long as a slow query, long enough to be seen."
    )
    meter_threads: int = Field(
        8, gt=0, description="Number of threads for readings: as many as the meters bear; AnyIO's 40 stay for all else."
    )
    password_rounds: int = Field(
        600_000,
        gt=0,
        description="Number of PBKDF2's rounds for a password: what OWASP asks for, a quarter of a second.",
    )
    password_threads: int = Field(
        2, gt=0, description="Number of passwords computed at a time: more than there are cores gain nothing."
    )
    alarm_outbox: int = Field(
        100, gt=0, description="Number of alarms that wait for one slow reader; one more drops the oldest."
    )
    work_step: float = Field(
        0.05, ge=0, description="Seconds that a page of a report or a step of a job takes: slow enough to be left."
    )
    chats_max: int = Field(
        100, gt=0, description="Number of answers under way in a process: LLMs limit requests, and each costs money."
    )
    chat_grace: float = Field(
        10.0,
        gt=0,
        description="Seconds an answer goes on with nobody there: coming back takes 3, after a restart 6.",
    )
    jobs_max: int = Field(
        100, gt=0, description="Number of jobs kept, those that ended among them: 20 MB when each has its 1,000 steps."
    )
    job_ttl: float = Field(
        600.0, ge=0, description="Seconds a job is known after its end: its viewers may be in a tunnel, or at lunch."
    )


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read from the environment once.

    Raises:
        LabError: if a variable holds a value that does not fit; the sentence names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise LabError(f"LABSERVER_{name}: {first['msg']}. Correct or unset this environment variable.") from None
