"""The LLM endpoint of the stage: a server that speaks Anthropic's Messages protocol, our own or a relay to theirs.

`faults` what can go wrong and when; `wire` frames, errors and what a request must hold; `words` what the lab's own one
says; `ledger` what was asked and what became of it; `endpoint` the server; `relay` the way to Anthropic; `stand` what a
notebook holds. A package named in the plural, because `labserver.stage.llm` is a function.
"""
