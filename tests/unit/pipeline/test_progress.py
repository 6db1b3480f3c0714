"""What a worker tells people while it runs."""

from __future__ import annotations

import json

import pytest

from primum.domain.errors import InvalidValue
from primum.domain.study.steps import WorkRequest
from primum_pipelines.progress import Progress, local_folder, progress_file


def make_request(uri: str, step: str = "job") -> WorkRequest:
    return WorkRequest({"step": step}, {}, "", uri, (), {})


def test_the_last_word_stands(tmp_path):
    progress = Progress(make_request(str(tmp_path)))

    progress.update(1, 90, "training steps")
    progress.update(90, 90, "training steps")

    path = progress_file(str(tmp_path), "job")
    assert json.loads(path.read_text()) == {"done": 90, "total": 90, "message": "training steps"}
    assert [entry.name for entry in path.parent.iterdir()] == ["job.json"]


def test_a_full_disk_does_not_stop_a_training_run(tmp_path):
    (tmp_path / "progress").write_text("in the way of the folder")

    Progress(make_request(str(tmp_path))).update(1, 2)


def test_artifacts_elsewhere_have_no_progress():
    Progress(make_request("s3://bucket/studies/u/1")).update(1, 2)

    assert progress_file("s3://bucket/studies/u/1", "job") is None


def test_a_file_uri_and_a_path_are_the_same_folder(tmp_path):
    folder = tmp_path / "with space"

    assert local_folder(folder.as_uri()) == local_folder(str(folder)) == folder


def test_a_step_name_cannot_leave_the_folder(tmp_path):
    with pytest.raises(InvalidValue):
        Progress(make_request(str(tmp_path), step="../../outside"))
