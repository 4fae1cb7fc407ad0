"""The failure modes: each module is the twin of a pattern with exactly one thing wrong, and is named after it.

A twin says in `WRONG` what is wrong and in `PATTERN` whose twin it is; the difference of the two sources is twelve
lines or fewer, because that difference is the lesson. `NEEDS_PROCESS = True` marks a twin that may freeze its process.
The stage alone mounts twins, under `/broken/<name>`.
"""
