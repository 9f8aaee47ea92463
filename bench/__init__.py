"""What Tollbridge costs, beside other gateways, in one run: `make bench`, or `python -m bench --help`.

mock.c      a fast OpenAI-compatible upstream           load.c       a load generator that checks every answer
native.py   compiles both and drives them               process.py   start, pin, meter and stop a process tree
gateways.py the table of what is measured               peers.py     installs the others, apart from this project
measure.py  one gateway through the whole programme     parts.py     Tollbridge's parts, each alone
report.py   results.md: tables, ratios, targets         __main__.py  the command line
"""
