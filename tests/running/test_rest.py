"""Runs at rest: no plan of them is kept, and whatever is asked of them they are planned again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running.helm import Helm

from sounding.keeping.requests import request_redo
from sounding.records import Ending

RUNS = {("runs", name) for name in "abc"}


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Helm]:
    helm = Helm(tmp_path, monkeypatch)
    yield helm
    helm.close()


def test_runs_at_rest_have_no_plans_and_wake_for_a_checkpoint_or_a_redo(helm: Helm):
    for run in "abc":
        for step in (1, 2):
            helm.post.write(f"{run}/ckpt_{step}.pt", f"content {run} {step}")
    helm.run()
    done = [(run, step, float(step)) for run in "abc" for step in (1, 2)]
    assert helm.readings() == done
    foreman = helm.daemon.foreman
    assert (foreman.plans, foreman.planned) == ({}, RUNS)
    helm.post.write("b/ckpt_3.pt", "content b 3")
    helm.run()
    assert sorted(helm.readings()) == sorted([*done, ("b", 3, 3.0)])
    request_redo(helm.results.path, run="a", step=2)
    status = helm.run()
    assert helm.readings().count(("a", 2, 2.0)) == 2
    assert [o.ending for o in helm.outcomes()].count(Ending.REDO) == 1
    assert (status.done, status.owed, foreman.plans) == (7, 0, {})


def test_a_restart_measures_nothing_of_runs_at_rest(helm: Helm):
    for run in "abc":
        helm.post.write(f"{run}/ckpt_1.pt", f"content {run}")
    helm.run()
    helm.daemon.close()
    helm.start()
    measured = list(helm.worker.measured)
    status = helm.run()
    assert (status.done, status.owed, helm.worker.measured) == (3, 0, measured)
    assert len(helm.readings()) == 3
    assert (helm.daemon.foreman.plans, helm.daemon.foreman.planned) == ({}, RUNS)
