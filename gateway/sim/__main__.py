"""``python -m gateway.sim``: the same command as ``vllm-gateway sim``."""

import argparse
import sys

from gateway.sim import cli

parser = argparse.ArgumentParser(prog="python -m gateway.sim")
cli.add_arguments(parser)
sys.exit(cli.run(parser.parse_args()))
