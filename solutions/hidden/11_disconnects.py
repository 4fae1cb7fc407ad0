"""Hidden checks of exercise 11: two exports, two jobs, and a viewer who is ahead of the press."""

from labserver.school.catalogue import checks_module
from labserver.school.checking import Failed, Misconception, guards
from labserver.school.wire import AnswerUnderTest

VISIBLE = checks_module("11_disconnects")

MISCONCEPTIONS = {
    "one_press_for_all": Misconception.of(
        "You keep the press in a name of the module. With two exports it is the press of the second, so the end of the "
        "first closes that one, and its own stays open.",
        {"two_presses_are_closed"},
        VISIBLE.KINDS,
    ),
    "from_where_the_job_is": Misconception.of(
        "You begin where the job is when a viewer asks for pages that are not yet printed. They are asked for by "
        "number: wait for them, and leave out those before.",
        {"ahead_of_the_press"},
        VISIBLE.STATE,
    ),
    "cancels_the_last_one": Misconception.of(
        "You keep one task, that of the job which was begun last. DELETE cancels it, whatever job it names.",
        {"the_job_of_that_name"},
        VISIBLE.OWNED,
    ),
}


@guards("press_is_closed", hint="Which press does the end of an export close?")
async def check_two_presses_are_closed(answer: AnswerUnderTest) -> None:
    """When two clients leave while a page of each is printed, both presses are closed."""
    await VISIBLE.set_up(answer, pause=0.5)
    async with (
        VISIBLE.reading(answer.url, "/export?pages=30") as one,
        VISIBLE.reading(answer.url, "/export?pages=20") as other,
    ):
        await VISIBLE.next_line(one)
        await VISIBLE.next_line(other)
    await VISIBLE.expect_no_files(answer, "after both clients have left")


@guards("viewers_come_back", hint="What does your stream send when `after` is larger than the last page's number?")
async def check_ahead_of_the_press(answer: AnswerUnderTest) -> None:
    """Who asks for the pages behind one that is not yet printed gets those, and none before."""
    text = await VISIBLE.set_up(answer, pause=0.25)
    after = answer.random.randrange(3, 5)
    job = await VISIBLE.begin(answer, after + 2)
    async with VISIBLE.reading(answer.url, f"{job}/pages?after={after}") as lines:
        VISIBLE.compare([await VISIBLE.next_line(lines) for _ in range(2)], text, after + 1)
        if (more := await anext(lines, None)) is not None:
            raise Failed(f"one more line: {more[:60]}", f"the pages {after + 1} and {after + 2}, and the end")


@guards("delete_ends_it", hint="Which of the jobs that run does DELETE stop?")
async def check_the_job_of_that_name(answer: AnswerUnderTest) -> None:
    """Of two jobs `DELETE` stops the one that it names, and the other is printed to its end."""
    text = await VISIBLE.set_up(answer, pause=0.02)
    number = answer.random.randrange(20, 40)
    long, short = await VISIBLE.begin(answer, 500), await VISIBLE.begin(answer, number)
    async with VISIBLE.reading(answer.url, f"{short}/pages") as lines:
        await VISIBLE.delete(answer, long)
        await VISIBLE.expect_state(answer, long, "cancelled")
        VISIBLE.compare([await VISIBLE.next_line(lines) for _ in range(number)], text, 1)
    await VISIBLE.expect_state(answer, short, "done")
    await VISIBLE.expect_no_files(answer, "after both jobs")
