"""Numbers in the words of messages."""

import re


def counted(number: int, thing: str) -> str:
    """ "1 line", "2 lines", "1,000 queries": a number, and what is counted in its singular or plural."""
    if number != 1:
        thing = re.sub(r"y$", "ie", thing) if re.search("[^aeiou]y$", thing) else thing
        thing += "es" if thing.endswith(("ch", "ss")) else "s"
    return f"{number:,} {thing}"
