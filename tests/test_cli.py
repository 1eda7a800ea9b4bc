"""The command line: quick help, complete help, shell completion, one line for each error."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from curate.cli import main


def curate(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "curate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})


def test_help_is_quick_because_it_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'pyarrow', 'duckdb', 'faiss', 'fsspec'}"
    code = f"import sys; import curate.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["harvest", "dedup", "filter", "train-clip"])
def test_the_four_commands_explain_themselves(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 15


def test_the_shell_completes_commands_and_options():
    words = {"_CURATE_COMPLETE": "bash_complete", "COMP_CWORD": "1", "COMP_WORDS": "curate tr"}
    assert "plain,train-clip" in curate(env=words).stdout
    words = {"_CURATE_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": "curate dedup --aga"}
    assert "plain,--against" in curate(env=words).stdout


@pytest.mark.slow
def test_measure_prints_one_line_or_json(dataset):
    done = curate("measure", dataset.url, "size", "--engine", "local(workers=0)", "-q")
    assert (done.returncode, done.stdout) == (0, "measure: size on 60 pairs in 3 shards\n")
    done = curate("measure", dataset.url, "size", "--engine", "local(workers=0)", "--json", "-q")
    assert json.loads(done.stdout)["skipped"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "{missing}", "size"], "is not a dataset"),
        (["measure", "{dataset}", "sise"], "no signals called 'sise'"),
        (["measure", "", "size"], "'DATASET' is empty"),
        (["filter", "{dataset}", "--where", "width > 1", "--where", ""], "'--where' is empty"),
        (["harvest", "{missing}", "--all", "--out", ""], "'--out' is empty"),
        (["measure", "{dataset}", "size", "--engine", "slurm"], "no engines called 'slurm'"),
        (["dedup", "{dataset}", "--threshold", "phash"], "'phash' is not NAME=NUMBER"),
    ],
)
def test_an_error_is_one_line_and_a_non_zero_exit(dataset, tmp_path, arguments, message):
    done = curate(*(word.format(missing=tmp_path / "none", dataset=dataset.url) for word in arguments))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_json_is_json_though_a_number_is_infinite(dataset):
    done = curate("filter", dataset.url, "--top", "30%", "--by", "'inf'::double", "--json", "-q")

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(done.stdout, parse_constant=refuse)["funnel"][0]["threshold"] is None


@pytest.mark.slow
def test_a_failed_shard_makes_the_exit_non_zero_and_is_named(dataset):
    whole = dataset.folder.read_bytes("shards/00001.tar")
    dataset.folder.write_bytes("shards/00001.tar", whole[:3000])
    done = curate("measure", dataset.url, "size", "--engine", "local(workers=0)", "-q")
    assert done.returncode == 1
    assert "00001.tar: truncated at byte" in done.stderr
    assert "40 pairs in 2 shards" in done.stdout


@pytest.mark.slow
def test_doctor_lists_what_is_installed_and_finds_no_fight():
    done = curate("doctor")
    assert "torch" in done.stdout
    assert "no problem found" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_store_that_does_not_let_us_in_is_one_line(tmp_path):
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'curate[s3]'")
    nobody = {
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = curate("report", "s3://bucket/dataset", env=nobody)
    assert done.returncode == 1
    assert done.stderr.startswith("curate: a store does not answer: Unable to locate credentials; look at")
    assert "Traceback" not in done.stderr
