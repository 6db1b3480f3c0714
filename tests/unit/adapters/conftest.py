"""An API server whose answers are scripted, and our client of it."""

from __future__ import annotations

import pytest
from scripted_api import scripted

from primum.adapters.kube.api import KubeApi


@pytest.fixture
def server(tmp_path):
    """An API server that answers from a list, and notes what it was asked."""
    with scripted(tmp_path) as made:
        yield made


@pytest.fixture
def api(server):
    """Our client of it."""
    made = KubeApi(str(server.config))
    yield made
    made.close()
