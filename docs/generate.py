"""Write the options of every command into docs/commands/<name>.md; what stands outside the markers is kept."""

import sys
from pathlib import Path

import click

from curate.cli import main

FOLDER = Path(__file__).parent / "commands"
START, END = "<!-- help: written by `make docs` -->", "<!-- end of help -->"


def help_of(name: str, command: click.Command) -> str:
    return f"{START}\n" + "\n".join(f"```text\n{text}\n```" for text in helps(name, command)) + f"\n{END}"


def helps(name: str, command: click.Command) -> list[str]:
    """The help of a command; of a group, that of each command in it."""
    if isinstance(command, click.Group):
        return [text for inner, each in sorted(command.commands.items()) for text in helps(f"{name} {inner}", each)]
    # as when it is called: click keeps the first help option that it makes, and the parent decides its names
    parent = click.Context(main, info_name="curate", **main.context_settings)
    context = click.Context(command, parent, info_name=name, max_content_width=100, terminal_width=100)
    return [command.get_help(context)]


def page(name: str, command: click.Command) -> str:
    """The page as it should be: the hand-written text, with the help as it is now."""
    path = FOLDER / f"{name}.md"
    text = path.read_text() if path.is_file() else f"# curate {name}\n\n{START}{END}\n"
    before, _, rest = text.partition(START)
    return before + help_of(name, command) + rest.partition(END)[2]


def pages() -> dict[Path, str]:
    return {FOLDER / f"{name}.md": page(name, command) for name, command in sorted(main.commands.items())}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)
    sys.stdout.write(f"{len(main.commands)} pages in docs/commands\n")
