"""For nbgrader: copy it into the folder of your course, and the solutions into `source/ASSIGNMENT/`.

With it nbgrader releases the exercise that the lab ships: `...` for each answer, no word on why the solution is written
so. The checks of an answer that hangs take longer than nbgrader waits for a cell by itself.
"""

from nbgrader.converters import GenerateAssignment
from traitlets.config import get_config

c = get_config()
c.ClearSolutions.code_stub = {"python": "..."}
c.TagRemovePreprocessor.enabled = True
c.TagRemovePreprocessor.remove_cell_tags = {"solution"}
c.GenerateAssignment.preprocessors = [
    "nbconvert.preprocessors.TagRemovePreprocessor",
    *GenerateAssignment.preprocessors.default_args[0],
]
c.Execute.timeout = 120  # seconds for one cell; LABSERVER_CHECKS_TIMEOUT is less
