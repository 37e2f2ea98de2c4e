"""Twenty organisations, each with a token and meetings of its own, on real Kafka with several processors."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from service.bus.kafka import KafkaReader
from service.bus.kafka_connection import Connection
from service.core.organizations import wire_id
from tests.line import KafkaLine, Process, accepts
from tests.ports import free_port


class OrganizationsLine(KafkaLine):
    """Two processors, and a third that stands ready; every organisation has a credential of its own in the settings."""

    partitions = 8

    def __init__(self, folder: Path, bootstrap: str, prefix: str, *, count: int, sweep: int) -> None:
        super().__init__(folder, bootstrap, prefix, settings={"SWEEP__INTERVAL": str(sweep)})
        self.organizations = {f"org{n}": f"{n:08x}-0000-4000-8000-{n:012x}" for n in range(1, count + 1)}
        self.environ = {name: value for name, value in self.environ.items() if name != "WEBEX__TOKEN"}
        for name, id_ in self.organizations.items():
            self.environ |= {
                f"WEBEX__ORGANIZATIONS__{name.upper()}__ID": id_,
                f"WEBEX__ORGANIZATIONS__{name.upper()}__TOKEN": token_of(name),
            }
        self._receiver = self.process("receiver", "serve", "receiver", JOURNAL__PATH=str(folder / "receiver"))
        self.processors = {name: self._made(name) for name in ("one", "two", "three")}

    def _made(self, name: str) -> Process:
        self.ports[name] = free_port()
        self.metrics.append(f"http://127.0.0.1:{self.ports[name]}/metrics")
        return self.process(
            f"processor-{name}",
            "serve",
            "processor",
            JOURNAL__PATH=str(self.folder / f"processor-{name}"),
            ADMIN__PORT=str(self.ports[name]),
            KAFKA__INSTANCE_ID=f"processor-{name}",
        )

    async def start(self) -> None:
        """Topics, sandbox, receiver, and two of the processors."""
        topics = self.process("topics", "topics", "apply")
        topics.start()
        assert await asyncio.to_thread(topics.stop_by_itself) == 0, self.printed()
        self._sandbox.start()
        await self.answers(f"{self.webex}/sandbox/figures")
        await self._issue_tokens()
        self._receiver.start()
        for name in ("one", "two"):
            await self.join(name)
        await accepts(self)

    async def join(self, name: str) -> None:
        """Start one processor, and wait until it is ready."""
        self.processors[name].start()
        await self.answers(f"http://127.0.0.1:{self.ports[name]}/readyz")

    async def _issue_tokens(self) -> None:
        for name, id_ in self.organizations.items():
            body = {"orgId": wire_id(id_), "token": token_of(name), "email": f"host@{name}.example"}
            answer = await self.client.post(f"{self.webex}/sandbox/tokens", json=body)
            assert answer.status_code == 200, answer.text

    async def schedule_for(self, name: str, title: str) -> str:
        """A meeting with registration of that organisation; its series id."""
        body = {
            "title": title,
            "start": "2027-05-01T10:00:00Z",
            "end": "2027-05-01T11:00:00Z",
            "registration": {"autoAcceptRequest": False},
        }
        headers = {"authorization": f"Bearer {token_of(name)}"}
        answer = await self.client.post(f"{self.webex}/v1/meetings", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def owners(self) -> dict[str, str]:
        """Organisation → the processor that wrote the latest lease for its partition."""
        reader = KafkaReader(connection=Connection(bootstrap_servers=self.bootstrap), topic_prefix=self.prefix)
        leases: dict[int, str] = {}
        places: dict[str, int] = {}
        for n in range(self.partitions):
            async for record in reader.read("ledger", n):
                if record.key == f"owner/{n}" and record.value:
                    leases[n] = str(msgspec.json.decode(record.value)["instance"])
            async for record in reader.read("work", n):
                places[record.key] = n
        return {name: leases.get(places.get(id_, -1), "") for name, id_ in self.organizations.items()}


def token_of(name: str) -> str:
    """The organisation's access token."""
    return f"token-of-{name}-0815"
