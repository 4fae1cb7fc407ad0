"""A room simulated on this host the evening before: real kernels, real checks, and what they take of the machine.

`plan` says what each person runs, `person` is one of them, `kernel` the kernels they have, `host` measures the machine,
`room` lets all of them in and out, `findings` holds what came of it, `view` and `command` tell it.
"""
