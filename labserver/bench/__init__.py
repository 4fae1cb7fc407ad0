"""`labserver bench`: the lab's own machinery beside its peers, in one run on one machine, as ratios of server CPU.

`rows` says what is measured and what is to be reached, `rounds` runs it, `measure` takes one sample, `place` owns every
process, `peers` are the servers, `load` is the other side of the wire, `view` shows what was found. Nothing here is
needed to serve.
"""
