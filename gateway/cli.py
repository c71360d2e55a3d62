"""argv → Settings → run. No logic."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import __version__
from gateway.config import ConfigError, dump, load
from gateway.settings import Setting, Settings, all_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
examples:
  vllm-gateway serve --worker http://10.0.0.7:8000 --worker http://10.0.0.8:8000
  vllm-gateway serve --config gateway.yaml --host 0.0.0.0
  vllm-gateway config --config gateway.yaml        what is in effect, secrets masked
  vllm-gateway sim --model demo --port 8100        a simulated worker, no GPU needed
"""

_SETTINGS_HELP = """\
Every setting has a flag, a line in the YAML file, and an environment variable: --timeouts-connect,
`timeouts: {connect: 5s}`, VLLM_GATEWAY_TIMEOUTS_CONNECT. A flag wins over the environment, the
environment over the file. Secrets have no flag: VLLM_GATEWAY_API_KEYS (comma-separated) or
--api-keys-file for clients, VLLM_GATEWAY_WORKER_API_KEY or --worker-api-key-file for workers.
"""


def main(argv: list[str] | None = None) -> int:
    """The command `vllm-gateway`. Returns the exit status; 2 for wrong usage or settings."""
    argv = sys.argv[1:] if argv is None else argv
    args, unknown = _parser(argv).parse_known_args(argv)
    if unknown:
        return _say_unknown(argv[0], unknown[0])
    status: int = args.run(args)
    return status


def _say_unknown(command: str, word: str) -> int:
    flags = [setting.flag for setting in all_settings() if setting.flag]
    close = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    print(
        f"vllm-gateway: there is no `{word}`; {hint}See `vllm-gateway {command} --help`.",
        file=sys.stderr,
    )
    return 2


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm-gateway",
        description="One OpenAI-compatible endpoint in front of many vLLM workers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vllm-gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_, run in (
        ("serve", "run the gateway", _serve),
        ("config", "print the effective settings, secrets masked", _config),
    ):
        command = commands.add_parser(
            name,
            help=help_,
            description=_SETTINGS_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_settings(command)
        command.set_defaults(run=run)
    _add_sim(commands, argv)
    return parser


def _add_sim(commands: Any, argv: Sequence[str]) -> None:
    sim = commands.add_parser("sim", help="run a simulated vLLM worker")
    if "sim" in argv[:1]:
        # The gateway itself need not carry the simulator in memory.
        from gateway.sim import cli as sim_cli  # noqa: PLC0415 - see above

        sim_cli.add_arguments(sim)
        sim.set_defaults(run=sim_cli.run)


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", type=Path, help="YAML file with settings")
    for setting in all_settings():
        if setting.flag is not None:
            several = setting.name == "workers"
            command.add_argument(
                setting.flag,
                dest=setting.name,
                metavar="URL" if several else "VALUE",
                action="append" if several else "store",
                help=_help(setting),
            )


def _help(setting: Setting) -> str:
    text = setting.description.replace("%", "%%")
    default = setting.default_text
    return f"{text} (default: {default})" if default else text


def _settings(args: argparse.Namespace) -> Settings | None:
    names = {setting.name for setting in all_settings()}
    flags = {name: value for name, value in vars(args).items() if name in names}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return load(given, args.config)
    except ConfigError as error:
        print(f"vllm-gateway: {error}", file=sys.stderr)
        return None


def _serve(args: argparse.Namespace) -> int:
    settings = _settings(args)
    if settings is None:
        return 2
    import uvloop  # noqa: PLC0415 - `config` and `sim --help` start without it

    from gateway.serve import serve  # noqa: PLC0415 - the same
    from gateway.telemetry.logs import set_up  # noqa: PLC0415 - the same

    set_up(settings.log.level, settings.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))


def _config(args: argparse.Namespace) -> int:
    settings = _settings(args)
    if settings is None:
        return 2
    print(dump(settings), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
