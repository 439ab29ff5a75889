"""The recipes of the README: they can be read by what they are for, and know every way in which a job ends."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path
from typing import Any

import yaml

from streamgd import errors

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
RECIPES = README[README.index("### Recipes") : README.index("## Options")]
#: Storage that failed, and a pause: another try may end otherwise.
AGAIN = {74, 75}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", RECIPES, re.DOTALL | re.MULTILINE)


def hopeless() -> set[int]:
    """Exit codes of errors that another try would end with again; 130 is Ctrl-C, which no scheduler sends."""
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StreamgdError)
    ]
    return {kind.exit_code for kind in kinds} - AGAIN - {130}


def unit(text: str) -> dict[str, Any]:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_systemd_tries_again_only_what_may_end_otherwise() -> None:
    service, timer = map(unit, blocks("ini"))
    assert {int(code) for code in service["Service"]["RestartPreventExitStatus"].split()} == hopeless()
    assert service["Service"]["Restart"] == "on-failure"
    assert "streamgd job run" in service["Service"]["ExecStart"]
    assert "OnCalendar" in timer["Timer"]


def test_kubernetes_fails_or_counts_every_exit_code() -> None:
    (job,) = [yaml.safe_load(text) for text in blocks("yaml") if "CronJob" in text]
    spec = job["spec"]["jobTemplate"]["spec"]
    rules = {rule["action"]: rule.get("onExitCodes", {}).get("values") for rule in spec["podFailurePolicy"]["rules"]}
    assert set(rules["FailJob"]) == hopeless()
    assert set(rules["Count"]) == AGAIN
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert {
        rule["onExitCodes"]["containerName"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule
    } == {container["name"] for container in pod["containers"]}


def test_airflow_skips_what_is_no_failure() -> None:
    (text,) = blocks("python")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    keywords = {
        each.arg: ast.literal_eval(each.value)
        for call in calls
        for each in call.keywords
        if each.arg == "skip_on_exit_code"
    }
    assert keywords == {"skip_on_exit_code": [errors.RunLockedError.exit_code, errors.PausedError.exit_code]}


def test_the_image_is_not_run_by_root_and_starts_a_job() -> None:
    (text,) = blocks("dockerfile")
    users = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")
    assert 'CMD ["job", "run"' in text
    assert text.index("USER 10001") < text.index("RUN python -m streamgd.precompile")
