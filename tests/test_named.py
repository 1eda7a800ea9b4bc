"""Plug-ins by name: the little language, the errors."""

import pytest

from curate import named
from curate.errors import CurateError
from curate.named import Spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("phash", Spec("phash")),
        ("phash(size=16)", Spec("phash", (("size", 16),))),
        ("clip(model=ViT-B-32, pretrained=runs/a b/model.pt, as=mine)",
         Spec("clip", (("model", "ViT-B-32"), ("pretrained", "runs/a b/model.pt")), "mine")),
        ("x(a=[1,2], b=true, c=None, d='q,r')", Spec("x", (("a", (1, 2)), ("b", True), ("c", None), ("d", "q,r")))),
        ("x()", Spec("x")),
    ],
)  # fmt: skip
def test_a_spec_is_a_name_with_options(text, spec):
    assert named.parse(text) == spec
    assert named.parse(str(spec)).options == spec.options


@pytest.mark.parametrize("text", ["", "(a=1)", "x(a)", "x(a=1", "x)"])
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(CurateError, match="cannot read"):
        named.parse(text)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CurateError, match=r"no signals called 'sise'; choose from: .*size"):
        named.load("signals", "sise")


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(CurateError, match=r"'local' has no option 'wrokers'; its options: workers"):
        named.load("engines", "local(wrokers=2)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("side=x", "side is a whole number"),
        ("side=1.5", "side is a whole number"),
        ("side=true", "side is a whole number"),
        ("side=none", "side is a whole number"),
        ("share=nan", "share is a number"),
        ("share=1e999", "share is a number"),
        ("sure=maybe", "sure is true or false"),
        ("word=[1]", "word is text"),
    ],
)
def test_an_option_of_another_type_is_refused(tmp_path, options, message):
    with pytest.raises(CurateError, match=rf"typed.py\({options.partition('=')[0]}=.*\): {message}"):
        named.load("signals", f"{typed(tmp_path)}({options})")


def test_an_option_comes_as_its_type(tmp_path):
    built = named.load("signals", f"{typed(tmp_path)}(side=1e3, share=2, sure=false, word=2024, any=x)")
    assert built.options == (1000, 2, False, "2024", "x")
    assert [type(value) for value in built.options] == [int, int, bool, str, str]
    assert named.load("signals", f"{typed(tmp_path)}(share=none, word=none, any=1.5)").options[1:] == (
        None,
        True,
        "none",
        1.5,
    )


def typed(folder) -> str:
    path = folder / "typed.py"
    path.write_text("class Signal:\n"
                    "    def __init__(self, side: int = 1, share: float | None = 1.0, sure: bool = True,\n"
                    "                 word: str = 'a', any=None):\n"
                    "        self.options = (side, share, sure, word, any)\n")  # fmt: skip
    return str(path)


@pytest.mark.parametrize(("code", "message"), [("x = 1", "has no class Signal"), ("x =", "is no Python: .*line 1")])
def test_a_file_that_is_no_plug_in_is_one_line(tmp_path, code, message):
    (tmp_path / "plain.py").write_text(code)
    with pytest.raises(CurateError, match=f"plain.py {message}"):
        named.load("signals", f"{tmp_path}/plain.py")


def test_a_plug_in_may_be_a_file_of_the_user(tmp_path):
    path = tmp_path / "contrast.py"
    path.write_text("class Signal:\n    reads = ()\n    def __init__(self, side=1):\n        self.side = side\n")
    assert named.load("signals", f"{path}(side=3)").side == 3
    assert named.parse(f"{path}(side=3)").slug == "contrast"


def test_a_missing_package_names_the_way_to_get_it(tmp_path):
    path = tmp_path / "deep.py"
    path.write_text("import a_package_nobody_has\n")
    with pytest.raises(CurateError, match="pip install a_package_nobody_has"):
        named.load("signals", str(path))
