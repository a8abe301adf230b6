"""`nanogpt-kit plugins test`: the suites of everything that a plugin declares, in an environment that is removed again.

`target` is what is tested, `environment` where, `session` and `recorder` run pytest there in a process of its own, and
`outcome` is what came of it.
"""
