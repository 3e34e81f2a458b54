"""Who may talk to a picker, how much it takes, and what it never says."""

import datetime
import http.client
import ipaddress
import json
import os
import random
import signal
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from servegym.agents.serving.artifact.protobuf import message, number, text
from tests.serving.envoy.stack import LEAST_LOADED, PICKER, call, free_port, until

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
MARKER = "xyzzy-the-prompt-nobody-may-read"


class Authority:
    """Signs certificates, in files of a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self._written(
            f"{name}.pem", self._signed(self.name, self.key.public_key(), is_authority=True)
        )

    def certificate(self, name: str) -> tuple[str, str]:
        """A certificate of localhost, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate = self._written(
            f"{name}.pem", self._signed(subject, key.public_key(), is_authority=False)
        )
        return certificate, self._written(f"{name}.key", private)

    def _signed(self, subject, public_key, *, is_authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _written(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)


@pytest.fixture
def picker(tmp_path):
    """Starts a picker of two replicas that are not there; gives its address and its log."""
    processes = []

    def start(*options: str) -> tuple[str, Path]:
        config, log = tmp_path / "serving.json", tmp_path / "picker.log"
        config.write_text(json.dumps(LEAST_LOADED))
        where = f"127.0.0.1:{free_port()}"
        arguments = ["--config", str(config), "--replicas", "127.0.0.1:1,127.0.0.1:2", "--listen", where]
        with log.open("wb") as out:
            command = [sys.executable, "-m", PICKER, *arguments, "--report-period-s", "0", *options]
            processes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
        until(
            lambda: "serves at port" in log.read_text() or processes[-1].poll() is not None,
            "the picker serves",
        )
        return where, log

    start.processes = processes
    yield start
    for each in processes:
        each.kill()
        each.wait()


def tls_options(certificate: str, key: str, client_ca: str | None = None) -> list[str]:
    return [
        *("--tls-certificate", certificate, "--tls-key", key),
        *(("--tls-client-ca", client_ca) if client_ca else ()),
    ]


def decided(stack) -> int:
    return len(stack.decisions())


def test_envoy_and_picker_speak_tls_and_know_each_other(stack, tmp_path) -> None:
    ours = Authority(tmp_path, "ours")
    certificate, key = ours.certificate("picker")
    client, client_key = ours.certificate("envoy")
    setup = {"picker_ca": ours.file, "client_certificate": client, "client_key": client_key}
    it = stack(setup=setup, options=tls_options(certificate, key, ours.file))
    assert {answer.status for answer in it.ask_all([{}] * 20)} == {200}
    until(lambda: decided(it) == 20, "all were decided by the picker")


def test_who_has_no_certificate_is_not_let_in(picker, tmp_path) -> None:
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    where, _ = picker(*tls_options(*ours.certificate("picker"), ours.file))
    certificate, key = (Path(each).read_bytes() for each in ours.certificate("client"))
    their_certificate, their_key = (Path(each).read_bytes() for each in others.certificate("stranger"))
    root = Path(ours.file).read_bytes()
    let_in = grpc.ssl_channel_credentials(root, key, certificate)
    with grpc.secure_channel(where, let_in) as channel:
        assert health(channel, "") == 1
    for credentials in (
        grpc.ssl_channel_credentials(root),
        grpc.ssl_channel_credentials(root, their_key, their_certificate),
        grpc.ssl_channel_credentials(Path(others.file).read_bytes(), key, certificate),
    ):
        with grpc.secure_channel(where, credentials) as channel, pytest.raises(grpc.RpcError) as error:
            health(channel, "")
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(where) as channel, pytest.raises(grpc.RpcError):
        health(channel, "")


def test_who_has_no_certificate_is_shown_no_metrics(picker, tmp_path) -> None:
    ours, port, config = Authority(tmp_path, "ours"), free_port(), tmp_path / "metrics.json"
    config.write_text(json.dumps({**LEAST_LOADED, "metrics": True}))
    options = ["--config", str(config), "--metrics", f"127.0.0.1:{port}"]
    picker(*options, *tls_options(*ours.certificate("picker"), ours.file))

    def page(*own: str) -> bytes:
        context = ssl.create_default_context(cafile=ours.file)
        if own:
            context.load_cert_chain(*own)
        connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
        connection.request("GET", "/metrics")
        return connection.getresponse().read()

    with pytest.raises((OSError, http.client.HTTPException)):
        page()
    assert b"servegym_router_decisions_total" in page(*ours.certificate("prometheus"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--tls-certificate", "missing.pem", "--tls-key", "missing.key"], "missing.key"),
        (["--tls-certificate", "missing.pem"], "must have --tls-certificate and --tls-key"),
        (["--max-body-bytes", "0"], "max_body_bytes = 0"),
        (["--metrics", "127.0.0.1:0"], "must have metrics = true"),
        (["--report-at", "127.0.0.1:1", "--report-period-s", "1"], "as many as --replicas, 2"),
        (["--replicas", "a,a"], "none twice"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(picker, options: list[str], why: str) -> None:
    _, log = picker(*options)
    assert picker.processes[0].wait(30) == 2
    assert why in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_port_in_use_is_not_shared(picker) -> None:
    where, log = picker()
    picker("--listen", where)
    assert picker.processes[1].wait(30) == 2
    assert "cannot be bound" in log.read_text()


def health(channel, service: str) -> int:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    return check(text(1, service) if service else b"", timeout=20)[-1]


def test_health(picker) -> None:
    where, _ = picker()
    with grpc.insecure_channel(where) as channel:
        for service in ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"):
            assert health(channel, service) == 1
        with pytest.raises(grpc.RpcError) as error:
            health(channel, "what")
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watched = {each: watch(text(1, each), timeout=30) for each in ("readiness", "liveness", "what")}
        assert {each: next(calls)[-1] for each, calls in watched.items()} == {
            "readiness": 1,
            "liveness": 1,
            "what": 3,
        }
        picker.processes[0].send_signal(signal.SIGTERM)
        assert next(watched["readiness"])[-1] == 2
    assert picker.processes[0].wait(30) == 0


def converse(channel, *requests: bytes) -> list[bytes]:
    return list(channel.stream_stream(PROCESS)(iter(requests), timeout=20))


def headers_part(*pairs: tuple[str, str], mode: int = 2) -> bytes:
    values = b"".join(message(1, text(1, name), text(3, value)) for name, value in pairs)
    return message(2, message(1, values)) + message(11, number(1, mode))


def body_part(body: bytes) -> bytes:
    return message(4, text(1, body), number(2, 1))


def test_a_picker_bounds_what_it_takes(picker) -> None:
    where, _ = picker("--max-body-bytes", "1000")
    with grpc.insecure_channel(where) as channel:
        assert len(converse(channel, headers_part(("a", "b")), body_part(b"x" * 1000))) == 2
        assert b"413" in converse(channel, headers_part(("a", "b")), body_part(b"x" * 1001))[-1]
        many = [(f"h{i}", "x") for i in range(201)]
        assert b"431" in converse(channel, headers_part(*many))[-1]
        assert len(converse(channel, headers_part(*many[:200]))) == 1
        with pytest.raises(grpc.RpcError) as error:
            converse(channel, headers_part(("a", "b")), body_part(b"x" * 400_000))
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_stream_that_says_nothing_is_ended(picker) -> None:
    where, _ = picker("--body-timeout-s", "0.3", "--idle-timeout-s", "0.3")
    with grpc.insecure_channel(where) as channel:
        ended, told = [], []

        def silent(*parts: bytes):
            yield from parts
            until(lambda: ended, "the picker ends the stream")

        for parts in ((), (headers_part(("a", "b"), mode=4),), (headers_part(("a", "b"), mode=0),)):
            ended.clear()
            calls = channel.stream_stream(PROCESS)(silent(*parts), timeout=20)
            told.append(list(calls))
            ended.append(True)
            assert calls.code() == grpc.StatusCode.OK
        assert b"408" in told[0][0] and b"408" in told[1][0]
        assert b"127.0.0.1" in told[2][0]  # it went on its way; its answer is not waited for for ever


def mutated(generator: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(raw) + 1)
        match generator.randrange(4):
            case 0 if at < len(raw):
                raw[at] ^= 1 << generator.randrange(8)
            case 1:
                del raw[at:]
            case 2:
                raw[at:at] = generator.randbytes(generator.randint(1, 12))
            case _ if at < len(raw):
                raw[at] = 0xFF
    return bytes(raw)


def test_prompts_are_never_logged_whatever_comes(stack, picker) -> None:
    """Through a real Envoy in all modes, and 2,000 broken messages straight to a picker, with all there is to
    log."""
    bodies = [
        json.dumps({"prompt": MARKER * 3, "tokens": 2, "stream": True}).encode(),
        json.dumps({"messages": [{"role": "user", "content": MARKER}], "user": MARKER}).encode(),
        f'{{"prompt": "{MARKER}", '.encode(),
        f'{{"prompt": ["{MARKER}", {{}}, 7], "priority": "{MARKER}"}}'.encode(),
        MARKER.encode(),
        b"\xff\xfe" + MARKER.encode(),
    ]
    for body_mode in ("BUFFERED", "FULL_DUPLEX_STREAMED"):
        it = stack(setup={"body_mode": body_mode, "observed": "tokens"}, options=["--log-level", "debug"])
        for body in bodies:
            headers = {"x-session-id": MARKER, "authorization": f"Bearer {MARKER}"}
            with suppress(OSError):  # the replica takes no such bodies
                call(it.port, "POST", f"/v1/completions?{MARKER}", body, headers, timeout_s=5)
        it.processes["picker"].terminate()
        it.processes["picker"].wait(30)
        assert decided(it) == len(bodies)
        assert "rpc" in it.log("picker").lower()  # it does log
        for file in ("picker.log", "decisions.jsonl"):
            assert MARKER not in (it.folder / file).read_text()

    where, log = picker("--log-level", "debug", "--max-body-bytes", "5000")
    generator = random.Random(0)
    good = [headers_part((MARKER, MARKER), ("x-request-id", "1"), mode=4), body_part(bodies[0])]
    with grpc.insecure_channel(where) as channel:
        codes = set()
        for _ in range(1000):
            parts = [mutated(generator, each) if generator.random() < 0.7 else each for each in good]
            answers = channel.stream_stream(PROCESS)(iter(parts), timeout=20)
            with suppress(grpc.RpcError):
                list(answers)
            codes.add(answers.code())
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
        assert len(codes) == 2
        assert b"413" in converse(channel, good[0], body_part(bodies[0] * 100))[-1]
        assert health(channel, "") == 1
    assert "what came is no message" in log.read_text()
    assert MARKER not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_router_that_fails_is_passed_by(stack, tmp_path) -> None:
    """An error that quotes the prompt is logged without its words; the request goes on without the picker."""
    (tmp_path / "sitecustomize.py").write_text(
        "from servegym.agents.serving.routing.router import Router\n"
        "def route(self, request, *_, **__):\n"
        f"    raise RuntimeError('cannot route {MARKER}')\n"
        "Router.route = route\n"
    )
    before = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = f"{tmp_path}:{before}"
    try:
        it = stack()
    finally:
        os.environ["PYTHONPATH"] = before
    assert {answer.status for answer in it.ask_all([{"prompt": MARKER}] * 10)} == {200}
    assert "RuntimeError at " in it.log("picker")
    assert MARKER not in it.log("picker")


def test_polling_that_ends_by_an_error_is_logged(picker, tmp_path, monkeypatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from servegym.agents.serving.routing.load_reports import LoadReports\n"
        "async def poll(self, *_):\n"
        "    raise RuntimeError('what nobody thought of')\n"
        "LoadReports._poll = poll\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    _, log = picker("--report-period-s", "0.1")
    said = "replicas are not asked for their load any more: RuntimeError at "
    until(lambda: said in log.read_text(), "the picker says so")
