"""YAML of recipes, in which a key stands once: the parser's own loader takes the last one in silence."""

from typing import Any

import yaml

from curate.errors import CurateError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        if twice := [str(key) for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice[0]}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(name: str, text: bytes) -> Any:
    """What a file called `name` holds. Raises CurateError."""
    try:
        return yaml.load(text.decode("utf-8-sig"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CurateError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
