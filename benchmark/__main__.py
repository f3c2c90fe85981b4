"""`python -m benchmark`."""

import os
import sys

INSTALL_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

# Python puts the working folder first: a random.py or a wandb.py of the user's own would be taken for the library.
if not sys.flags.safe_path and INSTALL_ROOT != os.getcwd() == sys.path[0]:
    sys.path.append(sys.path.pop(0))

if instruction := os.environ.get("_AL_BENCHMARK_COMPLETE"):  # a shell waits
    from benchmark.cli.completion import answer_shell

    answer_shell(instruction)
else:
    from benchmark.cli.commands import command

    command()
