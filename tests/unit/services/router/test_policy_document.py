"""What is wrong with a policy document, and where."""

from __future__ import annotations

import pytest

from services.router.policy_document import read

SOUND = """
targets:
  - {name: local, kind: local, address: "a:1"}
  - {name: big, kind: cloud, address: "b:1", model: openai/big}
policies: {bulk: {order: [small, big]}}
rules: [{name: bulk, when: {tasks: [tag]}, use: bulk}]
aliases: {gpt-4o: {model: openai/big, use: bulk}}
tenants: {acme: {use: bulk}}
"""


def said(text: str) -> list[str]:
    return [str(finding) for finding in read(text).findings]


def test_a_sound_document_has_no_findings() -> None:
    assert said(SOUND) == []


def test_a_documents_revision_is_what_it_says_or_a_digest_of_it() -> None:
    one, same, other = (read(text).book for text in (SOUND, SOUND + "\n# a comment\n", SOUND.replace("tag", "chat")))
    assert one is not None and same is not None and other is not None
    assert one.revision == same.revision != other.revision
    named = read(SOUND + "revision: 7\n").book
    assert named is not None
    assert named.revision == "7"


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (("a:1", "dns:///a"), "error: targets[0].address: cannot be resolved: 'a' is not host:port"),
        (("use: bulk}]", "use: bluk}]"), "error: rules[0].use: 'bluk' is no named policy; known: bulk"),
        (("acme: {use: bulk}", "acme: {use: b}"), "error: tenants.acme.use: 'b' is no named policy; known: bulk"),
        (("[small, big]", "[small, bgi]"), "error: policies.bulk.order[1]: 'bgi' is no target, tier or kind; known: "),
        (("model: openai/big, use", "model: gpt, use"), "error: aliases.gpt-4o.model: 'gpt' is served by no target"),
        (("{order:", "{judge: bgi, order:"), "error: policies.bulk.judge: 'bgi' is no target; known: big, local"),
        (("{order:", "{samples: 9, order:"), "error: policies.bulk.samples: Input should be less than or equal to 8"),
        (("name: big,", "name: local,"), "error: targets: 'local' is there 2 times"),
        (("tasks: [tag]", "taks: [tag]"), "error: rules[0].when.taks: unknown setting"),
        (("tasks: [tag]", "tasks: [tagg]"), "error: rules[0].when.tasks[0]: Input should be "),
        (("gpt-4o:", "big:"), "warning: aliases.big: hides the target or model of this name"),
        (("rules: [", "rules: [{name: all, use: bulk}, "), "warning: rules[1]: is never reached: rule 'all' "),
        (("policies: {", "policies: {idle: {}, "), "warning: policies.idle: nothing uses it"),
        (
            ("{order:", "{max_retention_days: 30, order:"),
            "warning: policies.bulk.max_retention_days: leaves out targets of unknown retention: big",
        ),
        (
            ("{order:", "{max_cost_usd: 1, order:"),
            "warning: policies.bulk.max_cost_usd: leaves out targets of unknown price: local, big",
        ),
        (("{order:", "{sensitivity_of: {email: privat}, order:"), "error: policies.bulk.sensitivity_of.email: Input "),
        (("targets:", "targetz:"), "error: targetz: unknown setting"),
        (("{bulk:", "{bulk"), "error: policy: is not YAML: line "),
    ],
)
def test_every_mistake_is_named_with_its_place(change: tuple[str, str], finding: str) -> None:
    assert change[0] in SOUND
    found = said(SOUND.replace(*change))
    assert any(line.startswith(finding) for line in found), found
    assert (read(SOUND.replace(*change)).book is None) == finding.startswith("error")


def test_what_is_included_lies_under_what_is_stated() -> None:
    ready = SOUND.replace("rules: [", "include: [decision_matrix]\nrules: [")
    book = read(ready).book
    assert book is not None
    assert [rule.name for rule in book.document.rules][:2] == ["bulk", "personal or health data"]
    assert book.document.policies["bulk"].order == ("small", "big")  # the document's own
    assert read(ready.replace("decision_matrix", "matrix")).findings[0].path == "include[0]"
