"""`python -m tollbridge`"""

from tollbridge.cli import main

main(prog_name="tollbridge")
