"""The commands as functions: plain arguments in, a frozen result out; nothing is printed here.

Every result has ``to_dict()``, which ``--json`` shows, and ``summary()``, which people read.
"""
