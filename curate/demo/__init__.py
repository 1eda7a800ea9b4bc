"""The demo: a small staged web of real emoji drawings, and the real commands run on it from end to end.

Nothing outside this folder imports it. `python -m curate.demo run` is what `make demo` calls.
"""
