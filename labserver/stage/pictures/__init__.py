"""What a tape looks like: as ladder, lanes or bytes in SVG, and as text. Knows events and nothing of sockets.

`twin` is the text, `story` the sentences; `ladder`, `lanes` and `microscope` are the three pictures, on a `sheet`.
"""
