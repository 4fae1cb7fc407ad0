"""Real-time channels for any FastAPI or Starlette app: made to be copied as a folder, it imports nothing else of ours.

A message runs one way: `endpoint -> Channels.publish -> engine -> hub.deliver -> connection -> wire`.
`channels` puts the parts together and is where to begin; `limits` and `codes` are the policy, each once.
"""
