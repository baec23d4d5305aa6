"""Do both protocols, in all their forms, answer the same question in the same way?

`scenarios.json` holds the questions. Each is asked in four forms: JSON, binary REST, raw gRPC and typed gRPC. The
answers must be ONNX Runtime's, or the same kind of error with the same message; only where the mistake lies in how
the data is written may messages differ by form (`same_message` is false).
"""

import json
import pathlib

import pytest

import asking
import reference

SCENARIOS = json.loads((pathlib.Path(__file__).parent / "scenarios.json").read_text())
GOOD = [scenario for scenario in SCENARIOS if "error" not in scenario]
BAD = [scenario for scenario in SCENARIOS if "error" in scenario]
NEWEST = {"risk": "2"}


def by_name(scenarios):
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario["name"])


@by_name(GOOD)
def test_same_answer(server, scenario):
    version = scenario.get("version") or NEWEST.get(scenario["model"], "1")
    inputs = {item["name"]: reference.array_of(item) for item in scenario["inputs"]}
    expected = reference.answer(scenario["model"], version, inputs)
    wanted = scenario.get("outputs", list(expected))
    for form in asking.forms_for(scenario):
        reply = asking.FORMS[form](server, scenario)
        assert reply.kind is None, (form, reply)
        assert reply.names == (scenario["model"], version, scenario.get("id", "")), form
        assert list(reply.outputs) == wanted, form
        for name in wanted:
            reference.same(reply.outputs[name], expected[name])


@by_name(BAD)
def test_same_error(server, scenario, still_serves):
    wanted = scenario["error"]
    replies = {form: asking.FORMS[form](server, scenario) for form in asking.forms_for(scenario)}
    assert {form: reply.kind for form, reply in replies.items()} == dict.fromkeys(replies, wanted["kind"]), replies
    for form, reply in replies.items():
        said = reply.message.replace(" ", "")
        missing = [word for word in wanted["words"] if word.replace(" ", "") not in said]
        assert not missing, f"{form} does not say {missing}: {reply.message}"
    if wanted.get("same_message", True):
        assert len({reply.message for reply in replies.values()}) == 1, replies


@pytest.mark.parametrize("version", ["0", "-1", "abc", "1.0", "99999999999999999999"])
def test_what_is_no_version(server, version, still_serves):
    question = GOOD[0] | {"version": version}
    replies = {form: asking.FORMS[form](server, question) for form in asking.FORMS}
    kinds = {reply.kind for reply in replies.values()}
    assert len(kinds) == 1 and kinds <= {"invalid", "not_found"}, replies
