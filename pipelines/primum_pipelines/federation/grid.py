"""Flower without a wire: a Grid that hands messages to ClientApps in this very process.

The embedded form of a federation; the same ServerApp and ClientApps run over a SuperLink elsewhere.
Nothing here may look into a message. A ClientApp that raises becomes an error reply without the
exception's text, which could quote data.
"""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from primum_pipelines.federation.flower import (
    ClientApp,
    Context,
    Error,
    Grid,
    Message,
    RecordDict,
    TaskIdentity,
)

_RUN_ID = 1
_SERVER_NODE = 1
_CLIENT_RAISED = 2  # Flower's code for a ClientApp that raised.


class LocalGrid(Grid):  # type: ignore[misc] # flwr is not followed by mypy
    """Delivers each message to the ClientApp of its node at once.

    Args:
        apps: ClientApp by node id.
    """

    def __init__(self, apps: Mapping[int, ClientApp]) -> None:
        self._apps = dict(apps)
        self._contexts = {
            node: Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            for node in apps
        }
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._run: object = None

    def set_run(self, run: object) -> None:
        """Keep what Flower wants remembered."""
        self._run = run

    @property
    def run(self) -> object:
        """What ``set_run`` was given."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every node."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages, one after the other; returns their ids."""
        ids = []
        for message in messages:
            number = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = number  # A SuperLink would set it.
            self._replies[number] = self._delivered(message)
            ids.append(number)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to messages, each once."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - no wire
    ) -> Iterable[Message]:
        """Deliver messages and return the replies."""
        return self.pull_messages(self.push_messages(messages))

    def _delivered(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            return self._apps[node](message, self._contexts[node])
        except Exception as problem:  # noqa: BLE001 - a site may raise anything
            return Message(Error(_CLIENT_RAISED, type(problem).__name__), reply_to=message)


def server_context() -> Context:
    """The context of the ServerApp."""
    return Context(
        run_id=_RUN_ID,
        node_id=_SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config={},
    )


@contextmanager
def flower_process() -> Iterator[None]:
    """Make this process one in which Flower messages can be made; leaves it as it was.

    Flower's home becomes an empty temporary folder, so that no configuration of a user is read, and
    its log says nothing below an error.
    """
    logger = logging.getLogger("flwr")
    level, home = logger.level, os.environ.get("FLWR_HOME")
    identity = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    with tempfile.TemporaryDirectory(prefix="primum-flower-") as folder:
        os.environ["FLWR_HOME"] = folder
        logger.setLevel(logging.ERROR)
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _RUN_ID
        try:
            yield
        finally:
            logger.setLevel(level)
            TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = identity
            if home is None:
                del os.environ["FLWR_HOME"]
            else:
                os.environ["FLWR_HOME"] = home
