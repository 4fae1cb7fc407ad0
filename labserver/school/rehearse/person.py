"""One simulated person: arrives, runs a notebook cell by cell, opens the exercise, checks the answer. Nothing is drawn.

As in JupyterLab the notebook's kernel stays open beside that of the exercise, and both until the room closes.
"""

import asyncio
from pathlib import Path
from random import Random
from time import perf_counter

import zmq.asyncio

from labserver.school.rehearse.findings import Outcome, Step
from labserver.school.rehearse.kernel import Kernel, KernelTrouble, environment
from labserver.school.rehearse.plan import Lesson, Plan
from labserver.school.verdicts import Report

__all__ = ["Person"]


class Person:
    """One of the people of a plan.

    Attributes:
        number: from 1 on.
        outcome: how far the person has come, renewed as it goes.
    """

    def __init__(self, number: int, plan: Plan, folder: Path, mark: str, context: zmq.asyncio.Context) -> None:
        self.number = number
        self.outcome = Outcome(number)
        self._plan = plan
        self._folder = folder / f"{number:02d}"
        self._mark = mark
        self._context = context
        self._chance = Random(number)
        self._kernels: list[Kernel] = []

    @property
    def kernels(self) -> list[int]:
        """The process ids of this person's kernels."""
        return [kernel.pid for kernel in self._kernels if kernel.pid is not None]

    async def work(self, arrival: float) -> None:
        """Do all that the plan says, `arrival` seconds from now on; whatever goes wrong stands in `outcome`."""
        await asyncio.sleep(arrival)
        self.outcome.state = "unfinished"
        variables = environment(self._folder, f"rehearsal {self.number:02d}", self._mark)
        try:
            await self._run(self._plan.notebook, variables)
            if self._plan.exercise is not None:
                kernel = await self._run(self._plan.exercise, variables)
                self._judge(await kernel.report())
        except KernelTrouble as trouble:
            self.outcome.state, self.outcome.problem = "failed", str(trouble)
        else:
            if self.outcome.state == "unfinished":
                self.outcome.state = "done"

    async def close(self) -> None:
        """End this person's kernels."""
        await asyncio.gather(*(kernel.close() for kernel in self._kernels), return_exceptions=True)

    async def _run(self, lesson: Lesson, variables: dict[str, str]) -> Kernel:
        kernel = Kernel(self._context, self._folder / f"kernel-{len(self._kernels)}.json")
        self._kernels.append(kernel)
        began = perf_counter()
        await kernel.start(lesson.folder, variables)
        self._took(lesson, "", began)
        for cell in lesson.cells:
            began = perf_counter()
            await kernel.run(cell)
            self._took(lesson, cell.id, began)
            await asyncio.sleep(self._plan.pause * self._chance.uniform(0.5, 1.5))
        return kernel

    def _took(self, lesson: Lesson, cell: str, began: float) -> None:
        self.outcome.steps.append(Step(lesson.name, cell, perf_counter() - began))

    def _judge(self, report: Report | None) -> None:
        self.outcome.verdict = report.verdict if report else "not attempted"
        self.outcome.checks_seconds = sum(check.seconds for check in report.checks) if report else 0.0
        if self.outcome.verdict != self._plan.expected:
            lost = [f"{check.name}: {check.seen}" for check in report.checks if not check.passed] if report else []
            self.outcome.state = "failed"
            self.outcome.problem = "; ".join(
                [f"the verdict was {self.outcome.verdict!r} and not {self._plan.expected!r}", *lost[:2]]
            )
